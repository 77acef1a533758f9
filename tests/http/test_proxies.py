"""X-Forwarded-* counts only from proxies that the settings trust."""

import re
import secrets

import pytest
from tests.http.asgi import Answer, ask
from tests.http.client import basic
from tests.http.conftest import OpenRegistry
from tests.http.targets import InProcess

TRUSTED = {"server": {"trusted_proxies": ("10.0.0.0/8", "fd00::/8")}}
FORWARDED = [(b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"registry.example.org")]


async def challenge(
    target: InProcess, headers: list[tuple[bytes, bytes]], peer: str = "10.1.2.3"
) -> str:
    """Return where the challenge of a request sends the client."""
    host = [(b"host", b"inside:5000")] if not any(k == b"host" for k, _ in headers) else []
    answer = await ask(target.application, "GET", "/v2/", headers=[*host, *headers], peer=peer)
    assert answer.status == 401
    match = re.match(r'Bearer realm="([^"]*)/auth/token"', answer.header("www-authenticate"))
    assert match
    return match[1]


async def test_a_trusted_proxy_says_how_the_client_reached_it(open_registry: OpenRegistry) -> None:
    """Scheme and host of the realm are those that the client knows."""
    target = open_registry(TRUSTED)
    assert await challenge(target, FORWARDED) == "https://registry.example.org"
    assert await challenge(target, FORWARDED, "fd00::1") == "https://registry.example.org"
    assert await challenge(target, FORWARDED[:1]) == "https://inside:5000"


@pytest.mark.parametrize("peer", ["192.0.2.1", "11.0.0.1", "", "unix:", "fe80::1"])
async def test_nobody_else_does(open_registry: OpenRegistry, peer: str) -> None:
    """Else anybody could send clients to a realm of his own (CVE-2026-33540)."""
    assert await challenge(open_registry(TRUSTED), FORWARDED, peer) == "http://inside:5000"


async def test_without_trusted_proxies_nobody_does(open_registry: OpenRegistry) -> None:
    """The default is to believe no one, not even this machine."""
    target = open_registry()
    for peer in ("127.0.0.1", "10.1.2.3", "::1"):
        assert await challenge(target, FORWARDED, peer) == "http://inside:5000"


async def test_the_public_url_wins(open_registry: OpenRegistry) -> None:
    """What the operator says is true, whatever the request says."""
    target = open_registry({"server": {"public_url": "https://r.example.org:8443"}})
    assert await challenge(target, FORWARDED) == "https://r.example.org:8443"
    assert await challenge(target, [(b"host", b"evil.test")]) == "https://r.example.org:8443"


@pytest.mark.parametrize(
    "host", [b"", b'evil" x="', b"a b", b"a/b", b"user@host", b"a:b", b"\xff", b"a" * 300, b"[x]"]
)
async def test_a_host_that_is_none_is_not_repeated(
    open_registry: OpenRegistry, host: bytes
) -> None:
    """In Host it is refused (RFC 9112 3.2); in a proxy's header it does not count."""
    target = open_registry(TRUSTED)
    answer = await ask(target.application, "GET", "/v2/", headers=[(b"host", host)])
    assert answer.status == 400
    assert await challenge(target, [(b"x-forwarded-host", host)]) == "http://inside:5000"


@pytest.mark.parametrize("host", [b"a%20b", b"a!b"])
async def test_a_host_that_cannot_be_repeated_is_replaced(
    open_registry: OpenRegistry, host: bytes
) -> None:
    """What is allowed in Host but not in a realm: the server's own address stands in."""
    target = open_registry(TRUSTED)
    assert await challenge(target, [(b"host", host)]) == "http://127.0.0.1:5000"
    assert await challenge(target, [(b"x-forwarded-proto", b"gopher")]) == "http://inside:5000"


@pytest.mark.parametrize(
    ("forwarded", "peer", "client"),
    [
        ("203.0.113.9", "10.0.0.1", "203.0.113.9"),
        ("203.0.113.9, 10.0.0.2", "10.0.0.1", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 10.0.0.2", "10.0.0.1", "203.0.113.9"),
        ("203.0.113.9", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.5, 10.0.0.6", "10.0.0.1", "10.0.0.5"),
        ("", "10.0.0.1", "10.0.0.1"),
        ("nonsense", "10.0.0.1", "nonsense"),
        ("x" * 500, "10.0.0.1", "x" * 64),
    ],
)
async def test_the_client_is_the_last_that_no_trusted_proxy_vouches_for(
    open_registry: OpenRegistry, forwarded: str, peer: str, client: str
) -> None:
    """A client cannot choose the address at which its failed logins are counted."""
    auth = {"failed_logins_before_delay": 1, "failed_login_delay_seconds": 60}
    target = open_registry(TRUSTED | {"auth": auth})

    async def fail(headers: list[tuple[bytes, bytes]], peer: str) -> Answer:
        wrong = (b"authorization", basic("alice", secrets.token_hex(8)).encode())
        return await ask(target.application, "GET", "/v2/", headers=[wrong, *headers], peer=peer)

    header = [(b"x-forwarded-for", forwarded.encode())]
    assert (await fail(header, peer)).status == 401
    assert (await fail(header, peer)).status == 429
    assert (await fail([(b"x-forwarded-for", client.encode())], "10.0.0.77")).status == 429
    assert (await fail([(b"x-forwarded-for", b"198.51.100.1")], "10.0.0.77")).status == 401


async def test_the_location_of_an_upload_is_relative(open_registry: OpenRegistry) -> None:
    """So it holds behind any proxy, and no header can send the client elsewhere."""
    target = open_registry(TRUSTED)
    headers = [
        (b"authorization", basic("alice", "alice's long enough password").encode()),
        (b"host", b"evil.test"),
        *FORWARDED,
    ]
    answer = await ask(
        target.application, "POST", "/v2/alice/a/blobs/uploads/", headers=headers, peer="10.0.0.1"
    )
    assert answer.status == 202
    assert answer.header("location").startswith("/v2/alice/a/blobs/uploads/")
