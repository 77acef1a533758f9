"""The token endpoint: who gets which token (Docker token specification)."""

import base64
import json
import secrets
from typing import Any

import httpx
import pytest
from tests.http.client import Client, Repository, assert_error, basic
from tests.http.conftest import PARSING
from tests.http.targets import Target

from dtr.model.access import Level, Visibility
from dtr.testing.registry import ALICE

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def claims(token: str) -> dict[str, Any]:
    """Return what a token says, unverified."""
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


async def post(client: Client, **fields: str | list[str]) -> httpx.Response:
    """POST a form to the token endpoint."""
    body = str(httpx.QueryParams(fields)).encode()
    return await Client(client.http).post("/auth/token", content=body, headers=FORM)


def granted(token: str) -> dict[str, list[str]]:
    """Return the actions that a token grants, by name."""
    return {entry["name"]: entry["actions"] for entry in claims(token)["access"]}


async def test_get_with_basic_credentials_answers_a_token(repository: Repository) -> None:
    """The answer has both names of the token, its life and its time, and is not cached."""
    scope = f"repository:{repository.name}:pull,push"
    answer = await repository.client.get("/auth/token", params={"service": "dtr", "scope": scope})
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    document = answer.json()
    assert document["token"] == document["access_token"]
    assert document["expires_in"] == 300
    assert document["issued_at"].endswith("Z")
    assert "refresh_token" not in document
    assert granted(document["token"]) == {repository.name: ["pull", "push"]}
    found = claims(document["token"])
    assert {"iss", "sub", "aud", "exp", "nbf", "iat", "jti"} <= set(found)
    assert found["exp"] - found["iat"] == 300


async def test_post_with_a_password_answers_a_token(repository: Repository) -> None:
    """The OAuth2 form of the same."""
    scope = f"repository:{repository.name}:pull"
    answer = await post(
        repository.client,
        grant_type="password",
        service="dtr",
        client_id="test",
        username=ALICE[0],
        password=ALICE[1],
        scope=scope,
    )
    assert answer.status_code == 200
    assert granted(answer.json()["access_token"]) == {repository.name: ["pull"]}
    assert "refresh_token" not in answer.json()


async def test_several_scopes_make_one_token(alice: Client) -> None:
    """Repeated, or with spaces between, or the same twice."""
    scopes = ["repository:alice/a:pull", "repository:alice/b:push repository:alice/a:push,delete"]
    token = await alice.token(*scopes)
    assert granted(token) == {"alice/a": ["pull", "push", "delete"], "alice/b": ["push"]}


async def test_a_token_opens_what_it_names_and_nothing_else(repository: Repository) -> None:
    """The challenge of a refusal names what is missing."""
    image = await repository.push_image("latest")
    other = repository.client.new_repository()
    await other.push_blob(b"x")
    pull = repository.seen_by(await repository.client.scoped(f"repository:{repository.name}:pull"))
    assert (await pull.client.get(pull.manifest("latest"))).content == image.payload
    refused = await pull.client.get(other.tags)
    assert_error(refused, 401, "UNAUTHORIZED")
    assert f'scope="repository:{other.name}:pull"' in refused.headers["WWW-Authenticate"]
    refused = await pull.client.post(pull.uploads)
    assert f'scope="repository:{pull.name}:pull,push"' in refused.headers["WWW-Authenticate"]
    assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]
    refused = await pull.client.delete(pull.manifest("latest"))
    assert_error(refused, 401, "UNAUTHORIZED")


async def test_a_scope_is_never_wider_than_the_account(
    target: Target, repository: Repository, bob: Client
) -> None:
    """What the account may not do is left out in silence."""
    await repository.push_blob(b"x")
    scope = f"repository:{repository.name}:pull,push,delete,admin,*"
    assert granted(await bob.token(scope)) == {}
    assert granted(await bob.token("repository:alice/there-is-none:pull")) == {}
    target.administration.grant(repository.name, "bob", Level.READ_ONLY)
    assert granted(await bob.token(scope)) == {repository.name: ["pull"]}
    target.administration.grant(repository.name, "bob", Level.READ_WRITE)
    assert granted(await bob.token(scope)) == {repository.name: ["pull", "push", "delete"]}


async def test_a_token_without_a_scope_says_who_and_opens_nothing(repository: Repository) -> None:
    """It is what `docker login` asks for."""
    await repository.push_blob(b"x")
    client = repository.client.bearing(await repository.client.token())
    assert (await client.get("/v2/")).status_code == 200
    assert_error(await client.get(repository.tags), 401, "UNAUTHORIZED")


async def test_nobody_gets_a_token_for_what_is_public(
    target: Target, repository: Repository, anonymous: Client
) -> None:
    """Anonymous pulls go the same way as all others."""
    await repository.push_image("latest")
    scope = f"repository:{repository.name}:pull,push"
    assert granted(await anonymous.token(scope)) == {}
    target.administration.set_visibility(repository.name, Visibility.PUBLIC)
    token = await anonymous.token(scope)
    assert granted(token) == {repository.name: ["pull"]}
    answer = await anonymous.bearing(token).get(repository.manifest("latest"))
    assert answer.status_code == 200


@PARSING
@pytest.mark.parametrize(
    "scope",
    [
        "repository:UPPER/x:pull",
        "repository:../x:pull",
        "repository::pull",
        "repository:alice/a:",
        "repository:alice/a:fly",
        "registry:catalog:pull",
        "plugin:alice/a:pull",
        "x:y:z",
        "registry:other:*",
    ],
)
async def test_a_scope_of_nothing_grants_nothing(alice: Client, scope: str) -> None:
    """Unknown types, actions and names that cannot be."""
    assert granted(await alice.token(scope)) == {}


@pytest.mark.parametrize("scope", ["x", "repository", "repository:x"])
async def test_a_scope_that_is_none_is_refused(alice: Client, scope: str) -> None:
    """400 in the envelope."""
    answer = await alice.get("/auth/token", params={"scope": scope})
    assert_error(answer, 400, "UNSUPPORTED")


async def test_more_than_a_hundred_scopes_are_refused(alice: Client) -> None:
    """However they are written."""
    for scopes in (["repository:a/b:pull"] * 101, [" ".join(["a:b:c"] * 101)]):
        answer = await alice.get("/auth/token", params={"scope": scopes})
        assert_error(answer, 400, "UNSUPPORTED")


async def test_a_scope_may_have_a_host_with_a_port_in_its_name(alice: Client) -> None:
    """The token specification allows it; such a repository is not ours."""
    assert granted(await alice.token("repository:localhost:5000/alice/a:pull")) == {}


WRONG = {
    "password": (ALICE[0], "not her password"),
    "user": ("nobody-at-all", ALICE[1]),
    "case": ("Alice", ALICE[1]),
    "token": (ALICE[0], "dtr_" + "x" * 40),
    "empty password": (ALICE[0], ""),
    "empty name": ("", ALICE[1]),
    "long password": (ALICE[0], "x" * 5000),
    "organization": ("library", "anything at all"),
}


@PARSING
@pytest.mark.parametrize("case", WRONG)
async def test_wrong_credentials_are_401_and_tell_nothing(anonymous: Client, case: str) -> None:
    """The same sentence whatever was wrong, on the token endpoint and everywhere else."""
    name, password = WRONG[case]
    client = anonymous.login(name, password)
    answers = [
        await client.get("/auth/token"),
        await client.get("/v2/"),
        await post(anonymous, grant_type="password", username=name, password=password),
    ]
    for answer in answers:
        entry = assert_error(answer, 401, "UNAUTHORIZED")
        assert entry["message"] == "user name or password is not correct"
        assert answer.headers["WWW-Authenticate"]


@PARSING
@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic !!!",
        "Basic YWxpY2U=",
        "Basic /w==",
        "Digest username=alice",
        "x",
        "Bearer",
        "Bearer x",
        "Bearer a.b.c",
        "Bearer " + "e30." * 3,
        "bearer " + "x" * 9000,
    ],
)
async def test_a_header_that_is_no_credential_is_401(anonymous: Client, header: str) -> None:
    """Never ignored: whoever sends credentials wants to be somebody."""
    client = Client(anonymous.http, "", header)
    for path in ("/v2/", "/v2/alice/app/tags/list"):
        answer = await client.get(path)
        assert_error(answer, 401, "UNAUTHORIZED")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer realm=")


async def test_the_token_endpoint_takes_no_bearer_token(alice: Client) -> None:
    """A token does not prolong itself."""
    client = alice.bearing(await alice.token())
    answer = await client.get("/auth/token")
    assert_error(answer, 401, "UNAUTHORIZED")
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize(
    "body", [b"", b"grant_type=magic", b"\xff", b"grant_type=%ff", b"grant_type=password&scope=x"]
)
async def test_a_form_that_is_none_is_refused(anonymous: Client, body: bytes) -> None:
    """400 in the envelope."""
    answer = await anonymous.post("/auth/token", content=body, headers=FORM)
    assert_error(answer, 400, "UNSUPPORTED")


async def test_basic_credentials_work_without_a_token(repository: Repository) -> None:
    """For scripts; the name may have no colon, the password may have many."""
    await repository.push_image("latest")
    assert (await repository.client.get(repository.tags)).status_code == 200


async def test_a_password_may_have_colons_and_other_scripts(
    target: Target, anonymous: Client
) -> None:
    """Basic credentials are UTF-8, and split at the first colon."""
    name, password = f"dora{secrets.token_hex(4)}", "pass:wörd:\U0001f433"
    target.administration.add_user(name, password)
    assert (await anonymous.login(name, password).get("/v2/")).status_code == 200
    latin = Client(
        anonymous.http, "", "Basic " + base64.b64encode(f"{name}:ü".encode("latin-1")).decode()
    )
    assert (await latin.get("/v2/")).status_code == 401
    assert basic(name, password) != latin.authorization


async def test_the_challenge_leads_to_the_token_endpoint(anonymous: Client) -> None:
    """Realm, service and scope as the specification has them."""
    answer = await anonymous.get("/v2/alice/app/tags/list")
    assert_error(answer, 401, "UNAUTHORIZED")
    base = str(anonymous.http.base_url).rstrip("/")
    assert answer.headers["WWW-Authenticate"] == (
        f'Bearer realm="{base}/auth/token",service="dtr",scope="repository:alice/app:pull"'
    )
