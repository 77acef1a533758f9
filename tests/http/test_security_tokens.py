"""Bearer tokens that others accepted: forged, borrowed, timeless, enormous (rows 14, 32, 43)."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.http.client import Client, assert_error
from tests.http.conftest import Connect, OpenRegistry
from tests.http.targets import InProcess, Target
from tests.http.test_tokens import claims

from dtr.accounts.records import SIGNING_KEYS
from dtr.testing.registry import ALICE

FOREIGN = ec.generate_private_key(ec.SECP256R1())


def encoded(document: dict[str, Any]) -> str:
    """Return a part of a token."""
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


async def header_and_claims(alice: Client) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return a good token with what it consists of."""
    token = await alice.token("repository:alice/app:pull")
    return token, jwt.get_unverified_header(token), claims(token)


async def refused(client: Client, token: str) -> None:
    """Check that a token opens nothing."""
    for path in ("/v2/", "/v2/alice/app/tags/list", "/v2/_catalog", "/metrics"):
        answer = await client.bearing(token).get(path)
        assert_error(answer, 401, "UNAUTHORIZED")


async def test_a_token_does_not_bring_its_own_key(alice: Client) -> None:
    """Row 14, CVE-2025-24976: neither jwk nor x5c nor jku nor a foreign kid is followed."""
    _, header, body = await header_and_claims(alice)
    key = FOREIGN.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(FOREIGN.public_key()))
    for more in (
        {},
        {"jwk": jwk},
        {"jku": "https://evil.test/keys"},
        {"x5c": ["AAAA"]},
        {"x5u": "https://evil.test/cert"},
        {"kid": "../../dev/null"},
        {"kid": ""},
        {"kid": "x" * 5000},
    ):
        forged = jwt.encode(body, key, "ES256", headers={"kid": header["kid"], **more})
        await refused(alice, forged)


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "RS256", "ES384", "EdDSA", ""])
async def test_no_other_algorithm_is_accepted(alice: Client, algorithm: str) -> None:
    """Row 14: above all not none, and not our public key as a shared secret."""
    token, header, body = await header_and_claims(alice)
    signature = token.rpartition(".")[2]
    for last in ("", signature):
        part = encoded(header | {"alg": algorithm})
        await refused(alice, f"{part}.{encoded(body)}.{last}")


async def test_our_public_key_is_no_shared_secret(target: Target, alice: Client) -> None:
    """Row 14: HS256 over a token with the public half of the key that verifies."""
    _, header, body = await header_and_claims(alice)
    if not isinstance(target, InProcess):
        pytest.skip("the key is read where it is kept, which is beside an application only")
    database = target.administration._database
    rows = await database.lookup_all(SIGNING_KEYS, {"now": 0})
    pem = next(pem for key_id, pem, _ in rows if key_id == header["kid"])
    public = serialization.load_pem_private_key(pem.encode(), None).public_key()
    text = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    start = f"{encoded(header | {'alg': 'HS256'})}.{encoded(body)}"
    mac = hmac.digest(text, start.encode(), hashlib.sha256)
    await refused(alice, f"{start}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")


async def test_a_token_with_other_claims_under_the_same_signature_is_refused(
    alice: Client,
) -> None:
    """Row 2: every claim is signed."""
    token, header, body = await header_and_claims(alice)
    signature = token.rpartition(".")[2]
    for change in (
        {"sub": "admin", "account": 1},
        {"access": [{"type": "registry", "name": "catalog", "actions": ["*"]}]},
        {"exp": body["exp"] + 86400},
        {"ceiling": 3},
        {"epoch": 2},
    ):
        await refused(alice, f"{encoded(header)}.{encoded(body | change)}.{signature}")


@pytest.fixture
async def own(open_registry: OpenRegistry) -> InProcess:
    """Give a registry whose signing key the test may read."""
    return open_registry()


async def signed(target: InProcess, body: dict[str, Any]) -> str:
    """Sign claims with the registry's own key, as a careless version of it might."""
    database = target.administration._database
    [(key_id, pem, _)] = await database.lookup_all(SIGNING_KEYS, {"now": 0})
    return jwt.encode(body, pem, "ES256", headers={"kid": key_id})


@pytest.mark.parametrize("missing", ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"])
async def test_a_token_without_its_standard_claims_is_refused(
    own: InProcess, connect: Connect, missing: str
) -> None:
    """Row 32: also where the signature is ours."""
    alice = connect(own).login(*ALICE)
    body = claims(await alice.token("registry:catalog:*"))
    assert (await alice.bearing(await signed(own, body)).get("/v2/")).status_code == 200
    del body[missing]
    await refused(alice, await signed(own, body))


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "another-service"},
        {"aud": []},
        {"iss": "another-registry"},
        {"exp": 1},
        {"exp": "x"},
        {"exp": None},
        {"exp": [1]},
        {"nbf": 2**40},
        {"iat": 2**40},
        {"account": "x"},
        {"account": [1]},
        {"account": 10**9},
        {"epoch": 99},
        {"epoch": "x"},
        {"ceiling": 9},
        {"ceiling": "admin"},
        {"access": 5},
        {"access": ["x"]},
        {"access": [{"type": "repository", "name": "a", "actions": ["fly"]}]},
        {"access": [{"type": "repository"}]},
        {"token": 10**9},
        {"sub": None},
    ],
    ids=str,
)
async def test_a_token_that_says_what_ours_never_say_is_refused(
    own: InProcess, connect: Connect, change: dict[str, Any]
) -> None:
    """Row 32: one that is for somebody else, of another time, or nonsense."""
    alice = connect(own).login(*ALICE)
    body = claims(await alice.token("registry:catalog:*")) | change
    await refused(alice, await signed(own, body))


@pytest.mark.measuring
@pytest.mark.parametrize(
    "token",
    [
        "." * 9000,
        "e30." * 4000,
        "a.b.c.d.e",
        "eyJhbGciOiJFUzI1NiJ9.e30." + "A" * 8000,
        encoded({"alg": "ES256", "kid": "x", "zip": "DEF"}) + ".e30.AA",
        base64.urlsafe_b64encode(b"[" * 6000).decode() + ".e30.AA",
        base64.urlsafe_b64encode(b'{"alg":"ES256","crit":["x"]}').decode() + ".e30.AA",
    ],
    ids=range(7),
)
async def test_nonsense_costs_little(anonymous: Client, token: str) -> None:
    """Row 43, CVE-2025-30204: what is too large is not parsed, and the rest is refused quickly."""
    started = time.perf_counter()
    answer = await Client(anonymous.http, "", "").request(
        "GET", "/v2/", headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.status_code in {401, 431}
    assert time.perf_counter() - started < 1


async def test_setting_the_clock_back_brings_no_token_back(
    own: InProcess, connect: Connect
) -> None:
    """Clock rollback: what was revoked or disabled stays so; keys made meanwhile are found."""
    alice = connect(own).login(*ALICE)
    bearer = alice.bearing(await alice.token())
    assert (await bearer.get("/v2/")).status_code == 200
    own.administration.set_active("alice", is_active=False)
    own.clock.advance(-3600)
    assert (await bearer.get("/v2/")).status_code == 401
    assert (await alice.get("/v2/")).status_code == 401


async def test_a_token_from_the_future_is_refused(own: InProcess, connect: Connect) -> None:
    """Clock rollback: a token that was made an hour ahead is not valid yet."""
    alice = connect(own).login(*ALICE)
    own.clock.advance(3600)
    token = await alice.token()
    own.clock.advance(-3600)
    answer = await alice.bearing(token).get("/v2/")
    assert_error(answer, 401, "UNAUTHORIZED")


async def test_setting_the_clock_back_locks_nobody_out(own: InProcess, connect: Connect) -> None:
    """Clock rollback: a wait is never longer than the longest that the settings allow."""
    client = connect(own)
    for _ in range(6):
        await client.login("alice", secrets.token_hex(8)).get("/v2/")
    own.clock.advance(-86400)
    answer = await client.login(*ALICE).get("/v2/")
    if answer.status_code == 429 and int(answer.headers["Retry-After"]) > 301:
        pytest.fail(f"locked out for {answer.headers['Retry-After']} seconds")
