"""The plain HTTP listener: health, redirects, and nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from tests.support.processes import free_port

from dtr.server import plain
from dtr.server.plain import PlainListener
from dtr.server.settings import Settings

Ask = Callable[[bytes], Awaitable[tuple[int, dict[str, str], bytes]]]
WELL = {"Error": "", "Healthy": True}


class Web:
    """Stands in for the web workers: answers health as it is told, and notes what it is asked."""

    def __init__(self) -> None:
        self.status = 200
        self.document: dict[str, Any] = WELL
        self.asked: list[bytes] = []
        self.is_silent = False

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        if self.is_silent:
            await reader.read()
        body = json.dumps(self.document).encode()
        writer.write(f"HTTP/1.1 {self.status} Said\r\nX: y\r\n\r\n".encode() + body)
        writer.close()


@pytest.fixture
def web() -> Web:
    """Give what the listener asks."""
    return Web()


@pytest.fixture
def settings() -> dict[str, Any]:
    """Give the section `server`, which a test may change before it asks."""
    return {
        "listen": f"127.0.0.1:{free_port()}",
        "http_listen": f"127.0.0.1:{free_port()}",
        "header_read_seconds": 1,
    }


@pytest.fixture
async def ask(web: Web, settings: dict[str, Any]) -> AsyncIterator[Ask]:
    """Give a way to send the listener bytes and get its answer: status, headers, body."""
    async with AsyncExitStack() as stack:

        async def start() -> int:
            parsed = Settings.model_validate({"server": settings})
            server = await asyncio.start_server(
                web.connected, "127.0.0.1", parsed.server.listen.port
            )
            await stack.enter_async_context(server)
            serving = asyncio.create_task(PlainListener(parsed, is_tls=False).serve())
            stack.push_async_callback(_ended, serving)
            assert parsed.server.http_listen is not None
            return parsed.server.http_listen.port

        port = 0

        async def send(request: bytes) -> tuple[int, dict[str, str], bytes]:
            nonlocal port
            port = port or await start()
            async with asyncio.timeout(20):
                reader, writer = await _connected(port)
                writer.write(request)
                answer = await reader.read()
                writer.close()
            return _parsed(answer)

        yield send


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)


def _parsed(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    if not answer:
        return 0, {}, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in fields)}
    return int(first.split()[1]), headers, body


def get(target: str, host: str = "registry.example", method: str = "GET") -> bytes:
    """Write a request."""
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


async def test_health_is_what_the_web_workers_say(ask: Ask, web: Web) -> None:
    """Status and body; the client's own words are not passed on."""
    status, headers, body = await ask(get("/health?x=secret"))
    assert (status, json.loads(body)) == (200, WELL)
    assert headers["content-length"] == str(len(body))
    assert web.asked[0].startswith(b"GET /health HTTP/1.1\r\n")
    web.status, web.document = 503, {"Error": "draining", "Healthy": False}
    status, _, body = await ask(get("/_ping"))
    assert (status, json.loads(body)) == (503, web.document)
    status, headers, body = await ask(get("/_ping", method="HEAD"))
    assert (status, body) == (503, b"")


async def test_a_server_that_does_not_answer_is_not_well(ask: Ask, web: Web) -> None:
    """Within seconds, in the original's shape."""
    web.is_silent = True
    status, _, body = await ask(get("/health"))
    assert status == 503
    assert json.loads(body) == {"Error": "web: no answer", "Healthy": False}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
async def test_all_else_is_sent_to_the_same_host_elsewhere(
    ask: Ask, settings: dict[str, Any], web: Web, method: str
) -> None:
    """With method, path and query; the body of a push is not taken."""
    target = "/v2/a/blobs/uploads/?digest=sha256:1&x=%20"
    port = settings["listen"].rpartition(":")[2]
    request = get(target, "registry.example:80", method) + b"x" * 5000
    status, headers, _ = await ask(request)
    assert status == 308
    assert headers["location"] == f"http://registry.example:{port}{target}"
    assert web.asked == []


async def test_the_public_url_is_where_clients_are_sent(ask: Ask, settings: dict[str, Any]) -> None:
    """Whatever host they believe to speak to; health by POST is no health either."""
    settings["public_url"] = "https://registry.example:8443"
    for request, target in (
        (get("/v2/", "other.example"), "/v2/"),
        (get("/health", method="POST"), "/health"),
        (get("//other.example/"), "//other.example/"),
    ):
        status, headers, _ = await ask(request)
        assert (status, headers["location"]) == (308, f"https://registry.example:8443{target}")


async def test_the_host_of_an_absolute_target_counts(ask: Ask, settings: dict[str, Any]) -> None:
    """RFC 9112 3.2.2: whatever Host says."""
    port = settings["listen"].rpartition(":")[2]
    status, headers, _ = await ask(b"GET http://else:80/where HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, headers["location"]) == (308, f"http://else:{port}/where")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET ftp://elsewhere/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET http://user@else/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET /\x0b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: ", 0),
    ],
)
async def test_what_is_no_request_is_refused(ask: Ask, request_bytes: bytes, status: int) -> None:
    """Bounded in size and time; nothing of it comes back."""
    answered, headers, body = await ask(request_bytes)
    assert answered == status
    assert "location" not in headers
    assert body == b""


async def test_one_address_does_not_take_all_connections(
    ask: Ask, settings: dict[str, Any]
) -> None:
    """Who holds more than its share open is refused, and a balancer's health check is answered."""
    assert (await ask(get("/_ping")))[0] == 200
    port = int(settings["http_listen"].rpartition(":")[2])
    held = [
        await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
        for _ in range(128)
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
    async with asyncio.timeout(20):
        with suppress(ConnectionError):
            assert await reader.read() == b""
    assert (await ask(get("/_ping")))[0] == 200
    for _, each in [*held, (reader, writer)]:
        each.transport.abort()


async def test_strangers_do_not_take_all_connections(
    ask: Ask, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From many addresses, who say nothing: the oldest give way, and health is answered."""
    monkeypatch.setattr(plain, "_MOST_CONNECTIONS", 16)
    settings["header_read_seconds"] = 60
    assert (await ask(get("/_ping")))[0] == 200
    port = int(settings["http_listen"].rpartition(":")[2])
    held = [
        await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.1.{n}", 0))
        for n in range(1, 33)
    ]
    for _ in range(3):
        assert (await ask(get("/_ping")))[0] == 200
    for _, each in held:
        each.transport.abort()
