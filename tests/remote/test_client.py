"""What a registry that an operator named cannot have this machine do."""

import json
import ssl
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from tests.support.scripted import Answer, Server, Servers, scripted_servers

from dtr.model.errors import UnavailableError
from dtr.remote import Credentials, RemoteClient, RemoteError, Targets, client

ALICE = Credentials("alice", "her secret")
BEARER = {"www-authenticate": 'Bearer realm="{}/token",service="s"'}
LOCAL = ["127.0.0.0/8"]


@pytest.fixture
def servers() -> Iterator[Servers]:
    """Give what starts a server on a script."""
    with scripted_servers() as start:
        yield start


async def ask(url: str, path: str = "/v2/", **allowed: Iterable[str]) -> bytes:
    """Ask a registry as alice; return the body of what is answered in the end."""
    registry = RemoteClient(Targets.parse(url, **allowed), ALICE)
    try:
        async with registry.open(path, scope="all") as answer:
            return await answer.read(limit=1000)
    finally:
        await registry.close()


def asks_for_token_of(server: Server) -> Answer:
    """Return a challenge that names another server's token service."""
    return Answer(401, headers={"www-authenticate": f'Bearer realm="{server.url}/token"'})


async def test_a_server_that_is_redirected_to_asks_for_the_password_in_vain(
    servers: Servers,
) -> None:
    """By a token or with the password itself; nobody is asked for a token then."""
    tokens = servers(lambda _p, _h: Answer(body=b'{"token": "t"}'))
    for challenge in (f'Bearer realm="{tokens.url}/token"', 'Basic realm="r"'):
        stranger = servers(
            lambda _p, _h, c=challenge: Answer(401, headers={"www-authenticate": c})  # type: ignore[misc]
        )
        origin = servers(
            lambda p, _h, s=stranger: Answer(307, headers={"location": s.url + p})  # type: ignore[misc]
        )
        with pytest.raises(RemoteError, match=r"redirects to another server.*nothing was sent"):
            await ask(origin.url, networks=LOCAL, token_services=[tokens.url])
        assert stranger.requests == [("/v2/", "")]
    assert tokens.requests == []


async def test_a_token_service_elsewhere_gets_nothing_unless_it_is_listed(
    servers: Servers,
) -> None:
    """Neither a request nor a password; the message names what to pass where it is right."""
    tokens = servers(lambda _p, _h: Answer(body=b'{"token": "t"}'))
    origin = servers(
        lambda _p, h: Answer(body=b"in") if "authorization" in h else asks_for_token_of(tokens)
    )
    with pytest.raises(RemoteError, match=f"--token-service {tokens.url}"):
        await ask(origin.url, networks=LOCAL)
    assert tokens.requests == []
    assert await ask(origin.url, token_services=[tokens.url]) == b"in"
    assert [path for path, _ in tokens.requests] == ["/token"]


async def test_a_token_service_cannot_pass_the_password_on(servers: Servers) -> None:
    """A redirect of a token service is not followed, also where it is the registry itself."""
    stranger = servers(lambda _p, _h: Answer(body=b'{"token": "t"}'))

    def script(path: str, _headers: dict[str, str]) -> Answer:
        if path.startswith("/token"):
            return Answer(307, headers={"location": f"{stranger.url}/token"})
        return asks_for_token_of(origin)

    origin = servers(script)
    with pytest.raises(RemoteError, match="token service answers 307"):
        await ask(origin.url, networks=LOCAL)
    assert stranger.requests == []


async def test_who_was_left_by_a_redirect_is_a_stranger_on_the_way_back(servers: Servers) -> None:
    """A stranger must not choose what is asked of the registry with the user's right."""
    stranger = servers(lambda _p, _h: Answer(307, headers={"location": f"{origin.url}/chosen"}))

    def script(path: str, headers: dict[str, str]) -> Answer:
        if path == "/chosen":
            return Answer(body=headers.get("authorization", "nothing").encode())
        if "authorization" not in headers:
            return Answer(401, headers={"www-authenticate": 'Basic realm="r"'})
        return Answer(307, headers={"location": stranger.url})

    origin = servers(script)
    assert await ask(origin.url, networks=LOCAL) == b"nothing"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:7f00:1]"])
async def test_a_redirect_to_a_private_address_is_refused_at_once(
    servers: Servers, host: str
) -> None:
    """However it is written, and without a second try; nobody is connected to."""
    private = servers(lambda _p, _h: Answer(body=b"a secret of this network"))
    port = private.url.rpartition(":")[2]
    location = f"http://{host}:{port}/latest/meta-data/"
    origin = servers(lambda _p, _h: Answer(302, headers={"location": location}))
    with pytest.raises(RemoteError, match=r"private address.*--allow-network"):
        await ask(origin.url)
    assert (len(origin.requests), private.requests) == (1, [])


async def test_a_private_network_that_is_allowed_is_redirected_to(servers: Servers) -> None:
    """An object store in one's own network is where many registries have their blobs."""
    store = servers(lambda _p, _h: Answer(body=b"bytes"))
    origin = servers(lambda _p, _h: Answer(302, headers={"location": f"{store.url}/b?x=a%2Fb+c"}))
    assert await ask(origin.url, networks=["127.0.0.1"]) == b"bytes"
    assert store.requests == [("/b?x=a%2Fb+c", "")]


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("ftp://example.com/", "not HTTP or HTTPS"),
        ("http://alice:x@example.com/", "not HTTP or HTTPS"),
        ("http://exa\u00e4mple.com/", "not HTTP or HTTPS"),
        ("http://example.com\\@127.0.0.1/", "not HTTP or HTTPS"),
        ("http://127.1/", "ambiguous"),
        ("http://2130706433/", "ambiguous"),
        ("/again", "more than 5 times"),
    ],
)
async def test_a_strange_redirect_is_not_followed(
    servers: Servers, location: str, said: str
) -> None:
    """To other schemes, with a user in it, in circles."""
    sent = location.encode().decode("latin-1")
    origin = servers(lambda _p, _h: Answer(302, headers={"location": sent}))
    with pytest.raises(RemoteError, match=said):
        await ask(origin.url)


def test_nothing_goes_from_https_to_plain_http() -> None:
    """Else whoever is on the way decides what a tag is."""
    registry = RemoteClient(Targets.parse("https://registry.example.com"))
    with pytest.raises(RemoteError, match="from HTTPS to plain HTTP"):
        registry._redirected("https://registry.example.com/v2/", "http://registry.example.com/")


async def test_a_server_that_is_not_there_is_said_in_plain_words(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No object's representation, no library's sentence."""
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    with scripted_servers() as start:
        gone = start(lambda _p, _h: Answer()).url
    with pytest.raises(UnavailableError) as failed:
        await ask(gone)
    assert str(failed.value) == "the registry does not answer: Connection refused"


async def test_a_proxy_of_the_environment_is_used(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many networks have no other way out; `no_proxy` names what is inside."""
    proxy = servers(lambda p, _h: Answer(body=json.dumps(p).encode()))
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "inside.example")
    assert await ask("http://outside.example") == b'"http://outside.example/v2/"'
    assert client._proxy("http://inside.example/") is None


def own_certificate(directory: Path) -> ssl.SSLContext:
    """Make a certificate that nobody trusts."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def test_a_certificate_that_is_not_trusted_is_said_at_once(tmp_path: Path) -> None:
    """In a sentence, without a second try and without the password; unless it is accepted."""
    with scripted_servers(own_certificate(tmp_path)) as start:
        server = start(lambda _p, _h: Answer(body=b"in"))
        with pytest.raises(RemoteError, match=r"certificate of 127\.0\.0\.1 is not trusted"):
            await ask(server.url)
        assert server.requests == []
        registry = RemoteClient(Targets.parse(server.url), ALICE, verify=False)
        async with registry.open("/v2/", scope="all") as answer:
            assert await answer.read(limit=100) == b"in"
        await registry.close()
