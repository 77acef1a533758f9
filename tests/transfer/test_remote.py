"""A registry that is asked over the network: what it may say, and what is not believed."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from dtr.model.digest import Digest
from dtr.model.errors import InvalidError, UnavailableError
from dtr.model.names import TagName
from dtr.transfer import remote as module
from dtr.transfer.challenge import Credentials
from dtr.transfer.remote import RemoteRegistry
from dtr.transfer.source import SourceError

CONTENT = b"content"
DIGEST = Digest(f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")
ALICE = Credentials("alice", "her secret")


@dataclass
class Answer:
    """What a server says to one request."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None


Script = Callable[[str, dict[str, str]], Answer]


@dataclass
class Server:
    """A server that answers as a test says, and remembers who asked."""

    url: str
    script: Script
    requests: list[tuple[str, str]]


@pytest.fixture
def servers() -> Iterator[Callable[[Script], Server]]:
    """Give what starts a server on a script."""
    running = []

    def start(script: Script) -> Server:
        requests: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append((self.path, self.headers.get("authorization", "")))
                answer = script(self.path, {k.lower(): v for k, v in self.headers.items()})
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                length = len(answer.body) if answer.length is None else answer.length
                self.send_header("content-length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *_arguments: Any) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return Server(f"http://127.0.0.1:{server.server_port}", script, requests)

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


async def test_pages_are_followed_to_the_last(servers: Callable[[Script], Server]) -> None:
    """By the Link header, absolute or relative, on this server only."""
    pages = {
        "/v2/_catalog?n=1000": (["a", 5], '</v2/_catalog?last=a>; rel="next"'),
        "/v2/_catalog?last=a": (["b"], '<http://elsewhere.example/v2/_catalog?last=b>; rel="next"'),
        "/v2/_catalog?last=b": (["c"], ""),
    }

    def script(path: str, _headers: dict[str, str]) -> Answer:
        names, link = pages[path]
        body = json.dumps({"repositories": names}).encode()
        return Answer(body=body, headers={"link": link} if link else {})

    registry = RemoteRegistry(servers(script).url)
    assert [name async for name in registry.repositories()] == ["a", "b", "c"]
    await registry.close()


async def test_pages_without_an_end_are_given_up(
    servers: Callable[[Script], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server could send us in a circle."""
    monkeypatch.setattr(module, "_MOST_PAGES", 20)
    link = {"link": '</v2/_catalog?last=a>; rel="next"'}
    registry = RemoteRegistry(servers(lambda _p, _h: Answer(headers=link)).url)
    with pytest.raises(SourceError, match="no last page"):
        _ = [name async for name in registry.repositories()]
    await registry.close()


async def test_a_token_is_got_with_the_password_and_used_for_its_scope(
    servers: Callable[[Script], Server],
) -> None:
    """The password goes to the token service, the token to the registry; a new one when it ends."""
    issued = 0

    def tokens(_path: str, _headers: dict[str, str]) -> Answer:
        nonlocal issued
        issued += 1
        return Answer(body=json.dumps({"token": f"t{issued}"}).encode())

    service = servers(tokens)
    expired = {"t1"}

    def script(_path: str, headers: dict[str, str]) -> Answer:
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in expired:
            return Answer(body=CONTENT)
        challenge = f'Bearer realm="{service.url}/token",service="s",scope="repository:a/b:pull"'
        return Answer(401, headers={"www-authenticate": challenge})

    registry_server = servers(script)
    registry = RemoteRegistry(registry_server.url, credentials=ALICE)
    for _ in range(3):
        found = await registry.manifest("a/b", TagName("v1"), limit=100)
        assert found.digest == DIGEST
    await registry.close()
    assert [path for path, _ in service.requests] == [
        "/token?service=s&scope=repository%3Aa%2Fb%3Apull"
    ] * 2
    assert all(given.startswith("Basic ") for _, given in service.requests)
    assert not any(given.startswith("Basic ") for _, given in registry_server.requests)
    assert [given for _, given in registry_server.requests][-1] == "Bearer t2"


async def test_a_refusal_is_not_repeated_for_ever(servers: Callable[[Script], Server]) -> None:
    """A server could ask for new tokens without an end."""
    count = 0

    def script(path: str, _headers: dict[str, str]) -> Answer:
        nonlocal count
        count += 1
        if path.startswith("/token"):
            return Answer(body=json.dumps({"token": f"t{count}"}).encode())
        challenge = f'Bearer realm="{server.url}/token"'
        return Answer(401, headers={"www-authenticate": challenge})

    server = servers(script)
    registry = RemoteRegistry(server.url, credentials=ALICE)
    with pytest.raises(SourceError, match="answers 401"):
        await registry.check()
    await registry.close()
    assert count < 10


@pytest.mark.parametrize(
    ("challenge", "said"),
    [
        ('Bearer realm="file:///etc/passwd"', "not reached over HTTPS"),
        ('Bearer realm="gopher://x/"', "not reached over HTTPS"),
        ("Bearer", "not reached over HTTPS"),
        ("Negotiate", "answers 401"),
    ],
)
async def test_a_strange_challenge_is_refused(
    servers: Callable[[Script], Server], challenge: str, said: str
) -> None:
    """And the password is not sent anywhere."""
    server = servers(lambda _p, _h: Answer(401, headers={"www-authenticate": challenge}))
    registry = RemoteRegistry(server.url, credentials=ALICE)
    with pytest.raises(SourceError, match=said):
        await registry.check()
    await registry.close()
    assert {given for _, given in server.requests} == {""}


async def test_a_redirect_to_another_server_gets_no_password(
    servers: Callable[[Script], Server],
) -> None:
    """Registries redirect to where their blobs are; that is somebody else."""
    elsewhere = servers(lambda _p, _h: Answer(body=CONTENT))

    def script(path: str, headers: dict[str, str]) -> Answer:
        if "authorization" not in headers:
            return Answer(401, headers={"www-authenticate": 'Basic realm="r"'})
        return Answer(307, headers={"location": f"{elsewhere.url}{path}"})

    registry = RemoteRegistry(servers(script).url, credentials=ALICE)
    assert b"".join([chunk async for chunk in registry.blob("a/b", DIGEST)]) == CONTENT
    await registry.close()
    assert elsewhere.requests == [(f"/v2/a/b/blobs/{DIGEST}", "")]


async def test_bodies_are_bounded_and_verified(servers: Callable[[Script], Server]) -> None:
    """A manifest that is too large or another one, a list that is none."""
    registry = RemoteRegistry(servers(lambda _p, _h: Answer(body=CONTENT)).url)
    with pytest.raises(SourceError, match="more than 3 bytes"):
        await registry.manifest("a/b", TagName("v1"), limit=3)
    with pytest.raises(SourceError, match="are others"):
        await registry.manifest("a/b", Digest.of(b"another"), limit=100)
    with pytest.raises(SourceError, match="JSON object"):
        _ = [name async for name in registry.tags("a/b")]
    await registry.close()


async def test_a_blob_that_breaks_off_is_continued(servers: Callable[[Script], Server]) -> None:
    """From where it broke off, as often as there is progress."""

    def script(_path: str, headers: dict[str, str]) -> Answer:
        start = int(headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        rest = CONTENT[start:]
        return Answer(206 if start else 200, rest[:1], length=len(rest))

    registry = RemoteRegistry(servers(script).url)
    assert b"".join([chunk async for chunk in registry.blob("a/b", DIGEST)]) == CONTENT
    await registry.close()


async def test_a_registry_that_is_busy_is_asked_again(servers: Callable[[Script], Server]) -> None:
    """And one that stays so, or is not there, is said to be away."""
    refusals = 2

    def script(_path: str, _headers: dict[str, str]) -> Answer:
        nonlocal refusals
        refusals -= 1
        return Answer(503) if refusals >= 0 else Answer()

    registry = RemoteRegistry(servers(script).url)
    await registry.check()
    await registry.close()
    short = servers(lambda _p, _h: Answer(body=b"", length=100))
    registry = RemoteRegistry(short.url)
    with pytest.raises(UnavailableError, match="broke off"):
        _ = [chunk async for chunk in registry.blob("a/b", DIGEST)]
    await registry.close()


@pytest.mark.parametrize("url", ["ftp://x", "https://", "https://alice:secret@x", "registry"])
def test_only_plain_addresses_of_registries_are_taken(url: str) -> None:
    """A password in a URL would be in the list of processes, and in logs."""
    with pytest.raises(InvalidError, match="without a user") as failed:
        RemoteRegistry(url)
    assert "secret" not in str(failed.value)
