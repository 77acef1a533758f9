"""Holes that others had, on this registry: who may see and do what.

Each test names its row in the table of advisories that this project keeps (reference, 6b).
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from tests.http.client import Client, Repository, assert_error, basic
from tests.http.conftest import Connect, OpenRegistry
from tests.http.targets import Target
from tests.http.test_tokens import granted, post

from dtr.accounts import passwords
from dtr.model.access import Level, Visibility
from dtr.model.digest import Digest
from dtr.server.logs import configure_logging
from dtr.server.settings import Settings
from dtr.testing.registry import ADMIN, ALICE, BOB


async def test_private_content_is_closed_to_anonymous_on_every_path(
    repository: Repository, anonymous: Client
) -> None:
    """Row 1, CVE-2026-27771: the gate stands before content, not only before metadata."""
    image = await repository.push_image("latest")
    subject = await repository.push_index("multi", image)
    for path in (
        repository.manifest("latest"),
        repository.manifest(image.digest),
        repository.manifest(subject),
        repository.blob(image.config),
        repository.blob(image.layers[0]),
        repository.tags,
        repository.referrers(image.digest),
    ):
        for method in ("GET", "HEAD"):
            for headers in ({}, {"Range": "bytes=0-"}, {"If-None-Match": "*"}):
                answer = await anonymous.request(method, path, headers=headers)
                assert answer.status_code == 401
                assert image.digest not in answer.text


async def test_the_scope_of_a_token_is_checked_at_use(
    target: Target, repository: Repository
) -> None:
    """Row 2, CVE-2025-68944: a scope that is dropped on the way would widen the token."""
    image = await repository.push_image("latest")
    _, secret = target.administration.create_token("alice", Level.READ_ONLY)
    limited = repository.client.login("alice", secret)
    scope = f"repository:{repository.name}"
    for actions, method, path in (
        ("push,delete", "GET", repository.manifest("latest")),
        ("pull,delete", "POST", repository.uploads),
        ("pull,push", "DELETE", repository.manifest(image.digest)),
    ):
        client = await repository.client.scoped(f"{scope}:{actions}")
        assert_error(await client.request(method, path), 401, "UNAUTHORIZED")
    assert granted(await limited.token(f"{scope}:pull,push,delete")) == {repository.name: ["pull"]}


async def test_an_upload_is_of_one_person_and_one_repository(
    target: Target, repository: Repository, bob: Client
) -> None:
    """Rows 3 and 23, CVE-2026-32589: an upload's id is no key for others."""
    location = await repository.start_upload()
    await repository.client.patch(location, content=b"secret bytes")
    target.administration.grant(repository.name, "bob", Level.ADMIN)
    mine = bob.new_repository()
    await mine.push_blob(b"x")
    upload = location.rpartition("/")[2]
    digest = Digest.of(b"secret bytes")
    for path in (location, mine.uploads + upload):
        for method in ("GET", "PATCH", "PUT", "DELETE"):
            answer = await bob.request(method, path, params={"digest": digest})
            assert_error(answer, 404, "BLOB_UPLOAD_UNKNOWN")
    done = await repository.client.put(location, params={"digest": digest})
    assert done.status_code == 201


async def test_a_deleted_blob_stays_deleted_here_when_others_touch_it(
    target: Target, repository: Repository, bob: Client
) -> None:
    """Row 10, CVE-2026-35172: reading is allowed by the link, never by what a cache knows."""
    content = b"deleted here, alive elsewhere"
    digest = await repository.push_blob(content)
    other = bob.new_repository()
    await other.push_blob(content)
    await repository.client.delete(repository.blob(digest))
    for _ in range(target.processes * 2):
        assert (await bob.get(other.blob(digest))).content == content
        answer = await repository.client.get(repository.blob(digest))
        assert_error(answer, 404, "BLOB_UNKNOWN")


async def test_tags_and_manifests_are_deleted_with_the_same_right(
    target: Target, repository: Repository, bob: Client
) -> None:
    """Row 11, CVE-2026-41888: deleting a tag passes where deleting a manifest does, not before."""
    image = await repository.push_image("latest")
    target.administration.grant(repository.name, "bob", Level.READ_ONLY)
    scope = f"repository:{repository.name}:pull,push"
    pusher = await repository.client.scoped(scope)
    for path in (
        repository.manifest("latest"),
        repository.manifest(image.digest),
        repository.blob(image.config),
    ):
        assert_error(await bob.delete(path), 403, "DENIED")
        assert_error(await pusher.delete(path), 401, "UNAUTHORIZED")
    assert (await bob.get(repository.manifest("latest"))).status_code == 200


async def test_a_blob_is_not_read_by_knowing_its_digest(
    repository: Repository, bob: Client
) -> None:
    """Row 16, CVE-2024-39897: one copy for all repositories is no way around their rights."""
    content = b"known by its digest only"
    digest = await repository.push_blob(content)
    mine = bob.new_repository()
    await mine.push_blob(b"x")
    for parameters in ({"mount": digest, "from": repository.name}, {"mount": digest}):
        assert (await bob.post(mine.uploads, params=parameters)).status_code == 202
        assert_error(await bob.get(mine.blob(digest)), 404, "BLOB_UNKNOWN")
    assert_error(
        await bob.post(mine.uploads, params={"digest": digest}, content=b""), 400, "DIGEST_INVALID"
    )
    document = {"digest": digest, "size": len(content), "mediaType": "a/b"}
    await mine.push_manifest(
        {"schemaVersion": 2, "config": document, "layers": [document]}, "claims-it"
    )
    assert_error(await bob.get(mine.blob(digest)), 404, "BLOB_UNKNOWN")


async def test_rights_are_looked_up_when_they_are_used(
    target: Target, repository: Repository, bob: Client
) -> None:
    """Row 17, CVE-2025-23208: rights that were taken away are not remembered anywhere."""
    await repository.push_image("latest")
    path = repository.manifest("latest")
    for level, status in ((Level.READ_ONLY, 200), (Level.NONE, 404), (Level.ADMIN, 200)) * 2:
        target.administration.grant(repository.name, "bob", level)
        for _ in range(target.processes * 2):
            assert (await bob.get(path)).status_code == status
    target.administration.grant(repository.name, "bob", Level.NONE)
    assert repository.name not in (await bob.get("/v2/_catalog")).text


async def test_nothing_that_a_client_says_makes_an_administrator(
    anonymous: Client, bob: Client
) -> None:
    """Row 22, CVE-2019-16097: fields that nobody asked for are not read."""
    answer = await post(
        anonymous,
        grant_type="password",
        username=BOB[0],
        password=BOB[1],
        is_admin="true",
        ceiling="3",
        account="1",
        scope="registry:catalog:*",
    )
    bearer = anonymous.bearing(answer.json()["token"])
    assert_error(await bearer.get("/metrics"), 403, "DENIED")
    answer = await bob.get("/auth/token", params={"account": "admin", "is_admin": "true"})
    assert (await bob.bearing(answer.json()["token"]).get("/v2/admin/x/tags/list")).status_code in {
        401,
        404,
    }


@pytest.fixture
def loud() -> Iterator[None]:
    """Log everything for one test, then put everything back."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    configure_logging("json", "debug")
    yield
    root.setLevel(level)
    root.handlers = handlers
    structlog.reset_defaults()


@pytest.mark.usefixtures("loud")
async def test_no_secret_is_written_into_a_log(
    open_registry: OpenRegistry, connect: Connect, capfd: pytest.CaptureFixture[str]
) -> None:
    """Row 18, CVE-2025-48374: not by requests, not by refusals, not at the loudest level."""
    target = open_registry({"log": {"access": True}})
    alice = connect(target).login(*ALICE)
    _, secret = target.administration.create_token("alice")
    answer = await alice.get("/auth/token", params={"offline_token": "true"})
    hidden = [secret, answer.json()["token"], answer.json()["refresh_token"], ALICE[1]]
    for text in hidden:
        await alice.login("alice", text).get("/v2/")
        await alice.bearing(text).get(f"/v2/alice/x/tags/list?last={text[:400]}")
        await post(alice, grant_type="refresh_token", refresh_token=text)
        await post(alice, grant_type="password", username="alice", password=text)
    await alice.bearing(hidden[1] + "x").get("/v2/")
    target.application._flush()
    out, err = capfd.readouterr()
    assert "/auth/token" in out
    for text in hidden:
        assert text not in out + err
        assert basic("alice", text).removeprefix("Basic ") not in out + err


@pytest.mark.parametrize(
    "text", ["'", "' OR '1'='1", '"; DROP TABLE tags; --', "%27", "\\", "${x}", "{{x}}", "a\x00b"]
)
async def test_no_text_of_a_client_reaches_a_statement(
    repository: Repository, anonymous: Client, text: str
) -> None:
    """Row 25, CVE-2024-22261: nothing is built from strings; nothing more is found or lost."""
    await repository.push_image("latest")
    client = repository.client
    for path, parameters in (
        (repository.tags, {"last": text}),
        ("/v2/_catalog", {"last": text}),
        (repository.referrers("sha256:" + "0" * 64), {"artifactType": text, "last": text}),
        ("/auth/token", {"scope": f"repository:{text}:pull", "account": text}),
    ):
        answer = await client.get(path, params=parameters)
        assert answer.status_code in {200, 400}
    assert (await anonymous.login(text, text).get("/v2/")).status_code == 401
    assert (await anonymous.login(f"alice{text}", ALICE[1]).get("/v2/")).status_code == 401
    assert (await client.get(repository.tags)).json()["tags"] == ["latest"]


async def test_a_wrong_name_and_a_wrong_password_are_told_apart_by_nobody(
    anonymous: Client,
) -> None:
    """Row 29, CVE-2019-19030: the same bytes, whoever exists."""
    seen = set()
    for name in ("alice", "nobody-at-all", "admin", "", "x" * 200):
        answer = await anonymous.login(name, "wrong password").get("/v2/")
        seen.add((answer.status_code, answer.text, answer.headers["WWW-Authenticate"]))
    assert len(seen) == 1


async def test_no_account_is_as_slow_as_a_wrong_password(
    open_registry: OpenRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 29: a password is verified also where there is nobody to have it."""
    verified: list[str | None] = []
    target = open_registry()
    real = passwords._HASHER

    class Counting:
        def verify(self, password_hash: str, password: str) -> bool:
            verified.append(password_hash)
            return real.verify(password_hash, password)

        def hash(self, password: str) -> str:
            return real.hash(password)

    monkeypatch.setattr(passwords, "_HASHER", Counting())
    target.administration.set_active("bob", is_active=False)
    for name in ("alice", "nobody-at-all", "bob"):
        client = connect(target).login(name, "wrong password")
        assert (await client.get("/v2/")).status_code == 401
    assert len(verified) == 3
    assert all(found and found.startswith("$argon2id$") for found in verified)
    assert len({found.rpartition("$")[0].rpartition("$")[0] for found in verified if found}) == 1


async def test_the_catalog_is_for_accounts(anonymous: Client) -> None:
    """Row 30, CVE-2020-29662."""
    assert_error(await anonymous.get("/v2/_catalog"), 401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    "password", ["", "admin", "password", "Harbor12345", "changeme", "dtr", "docker", "root123"]
)
async def test_there_is_no_default_password(anonymous: Client, password: str) -> None:
    """Row 31, CVE-2026-4404."""
    for name in ("admin", "root", "dtr"):
        answer = await anonymous.login(name, password).get("/v2/")
        assert answer.status_code == 401


def test_no_secret_has_a_default() -> None:
    """Row 31: every setting that is secret would have to be given, and none is."""
    for section in Settings.model_fields:
        for name, value in getattr(Settings(), section):
            assert "password" not in name or value is None
            assert "secret" not in name


async def test_a_token_for_a_name_ends_with_what_had_the_name(
    target: Target, repository: Repository, bob: Client, anonymous: Client
) -> None:
    """Row 32: deleted and made again, a repository is another one, and old rights are gone."""
    await repository.push_image("latest")
    target.administration.grant(repository.name, "bob", Level.READ_ONLY)
    bearer = await bob.scoped(f"repository:{repository.name}:pull")
    assert (await bearer.get(repository.tags)).status_code == 200
    target.administration.set_visibility(repository.name, Visibility.PUBLIC)
    nobody = await anonymous.scoped(f"repository:{repository.name}:pull")
    assert (await nobody.get(repository.tags)).status_code == 200
    target.administration.remove_repository(repository.name)
    await repository.push_image("latest")
    for _ in range(target.processes * 2):
        assert_error(await bearer.get(repository.tags), 401, "UNAUTHORIZED")
        assert_error(await bob.get(repository.tags), 404, "NAME_UNKNOWN")
        assert_error(await nobody.get(repository.tags), 401, "UNAUTHORIZED")


async def test_a_new_repository_is_private(repository: Repository, bob: Client) -> None:
    """Row 35, CVE-2022-46463: public is what somebody said, never what happens."""
    await repository.push_image("latest")
    assert_error(await bob.get(repository.manifest("latest")), 404, "NAME_UNKNOWN")


@pytest.mark.parametrize("length", [72, 73, 200, 1023])
async def test_passwords_differ_beyond_their_first_72_bytes(
    open_registry: OpenRegistry, connect: Connect, length: int
) -> None:
    """Row 36, CVE-2024-5891: nothing of a password is cut off."""
    target = open_registry()
    name, password = target.administration.add_user("long", "p" * length + "!")
    client = connect(target)
    assert (await client.login(name, password).get("/v2/")).status_code == 200
    for wrong in ("p" * length, "p" * length + "?", "p" * (length + 1)):
        assert (await client.login(name, wrong).get("/v2/")).status_code == 401


def test_no_secret_is_kept_readable(open_registry: OpenRegistry, tmp_path: Path) -> None:
    """Rows 36 and 39, CVE-2024-3622: the file of a registry has neither passwords nor tokens."""
    target = open_registry()
    _, secret = target.administration.create_token("alice")
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("dtr.db*"))
    assert b"$argon2id$" in stored
    for hidden in (secret, secret.removeprefix("dtr_"), ALICE[1], ADMIN[1], basic(*ALICE)):
        assert hidden.encode() not in stored


async def test_no_answer_gives_a_secret_back(target: Target, alice: Client, admin: Client) -> None:
    """Row 39: a token is told once, to whoever made it."""
    _, secret = target.administration.create_token("alice")
    client = alice.login("alice", secret)
    for path in ("/v2/", "/v2/_catalog", "/auth/token", "/v2/alice/none/tags/list"):
        answer = await client.get(path)
        assert secret not in answer.text
        assert secret not in json.dumps(dict(answer.headers))
    assert secret not in (await admin.get("/metrics")).text
