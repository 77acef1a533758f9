"""The real server on the wire: redirects, smuggling, slow clients, cut connections."""

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator

import pytest
from tests.http.asgi import ask, pause_forever
from tests.http.client import Client, basic
from tests.http.conftest import Connect, OpenRegistry
from tests.http.targets import Node
from tests.http.wire import head, say

from dtr.model.digest import Digest
from dtr.model.errors import ContentDamagedError
from dtr.storage.memory import MemoryBlobStore
from dtr.testing.registry import ALICE

AUTH = ("Authorization", basic(*ALICE))
PUSH = "/v2/alice/wire/blobs/uploads/"


@pytest.mark.parametrize(
    "path",
    [
        "//evil.test/",
        "/\\evil.test",
        "/%2f%2fevil.test",
        "/?next=//evil.test",
        "/auth/token?to=//e",
    ],
)
async def test_nothing_redirects(alice: Client, path: str) -> None:
    """Rows 20 and 28, CVE-2024-22244: no answer sends a browser elsewhere."""
    answer = await alice.http.request("GET", str(alice.http.base_url).rstrip("/") + path)
    assert not 300 <= answer.status_code < 400
    assert "Location" not in answer.headers


async def test_no_site_may_read_for_its_visitors(alice: Client) -> None:
    """Row 20: no header of cross-origin sharing, for any origin."""
    for method in ("GET", "OPTIONS"):
        answer = await alice.request(
            method,
            "/v2/",
            headers={"Origin": "https://evil.test", "Access-Control-Request-Method": "PUT"},
        )
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.server
@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "chunked"), ("Content-Length", "5")],
        [("Content-Length", "5"), ("Content-Length", "50")],
        [("Content-Length", "5, 50")],
        [("Content-Length", "+5")],
        [("Content-Length", "-5")],
        [("Content-Length", "0x5")],
        [("Content-Length", "9" * 40)],
        [("Transfer-Encoding", "chunked, identity")],
        [("Transfer-Encoding", "xchunked")],
        [("Transfer-Encoding", " chunked"), ("Transfer-Encoding", "x")],
        [("Transfer-Encoding ", "chunked")],
    ],
    ids=str,
)
def test_a_request_with_two_lengths_hides_no_second_one(
    node: Node, headers: list[tuple[str, str]]
) -> None:
    """Smuggling: whatever a balancer before us believes, the hidden request is not answered."""
    hidden = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    body = b"0\r\n\r\n" + hidden
    heard = say(node.url, head("POST", "/auth/token", headers) + body, seconds=1)
    assert b"smuggled" not in heard.content
    assert len(heard.statuses) <= 1 or 400 in heard.statuses
    log = node.server.log.read_text(errors="replace")
    assert "/smuggled" not in log, "the hidden request was served"


@pytest.mark.server
@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /_ping HTTP/1.1\r\n\r\n",
        b"GET  /_ping HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /_ping\r\n\r\n",
        b"GET /_ping HTTP/9.9\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /_ping HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: x\r\n continued\r\n\r\n",
        b"GET /v2/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/%zz/tags/list HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT evil.test:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://evil.test/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_a_broken_head_breaks_no_more_than_its_connection(node: Node, request_bytes: bytes) -> None:
    """Nonsense is refused or answered, never 500, and the next client is served."""
    heard = say(node.url, request_bytes, seconds=2)
    assert heard.status < 500
    assert say(node.url, head("GET", "/_ping"), until=b"Healthy").status == 200


@pytest.mark.server
def test_expect_continue_is_answered_before_the_body(node: Node) -> None:
    """A client that asks first is told to go on, or what is wrong, without sending it all."""
    content = b"asked first"
    target = f"{PUSH}?digest={Digest.of(content)}"
    lengths = [("Content-Length", str(len(content))), ("Expect", "100-continue")]
    heard = say(
        node.url, head("POST", target, [AUTH, *lengths]), content, pause=0.2, until=b" 201 "
    )
    assert heard.statuses == [100, 201]
    heard = say(node.url, head("POST", target, lengths), seconds=3, until=b" 401 ")
    assert heard.statuses == [401]


@pytest.mark.measuring
@pytest.mark.server
def test_a_client_that_sends_its_head_slowly_is_cut_off(node: Node) -> None:
    """Header slowloris: after header_read_seconds (here one), not after every byte anew."""
    pieces = [bytes([byte]) for byte in head("GET", "/_ping", [("X-Slow", "x" * 40)])]
    heard = say(node.url, *pieces[:-20], pause=0.05, seconds=8)
    assert heard.is_closed
    assert 200 not in heard.statuses
    assert heard.seconds < 6


@pytest.mark.measuring
@pytest.mark.server
@pytest.mark.parametrize("method", ["PATCH", "PUT", "POST"])
def test_a_client_that_pauses_in_a_body_is_told_so(node: Node, method: str) -> None:
    """Slowloris on uploads: after body_idle_seconds (here half) 408, and the worker is free."""
    with_session = say(
        node.url, head("POST", PUSH, [AUTH, ("Content-Length", "0")]), until=b"\r\n\r\n"
    )
    match = re.search(rb"(?i)location: (\S+)", with_session.content)
    assert match
    digest = Digest.of(b"never sent")
    target = {
        "PATCH": match[1].decode(),
        "PUT": f"{match[1].decode()}?digest={digest}",
        "POST": f"{PUSH}?digest={digest}",
    }[method]
    request = head(method, target, [AUTH, ("Content-Length", "1000")]) + b"x" * 10
    heard = say(node.url, request, seconds=8, until=b"errors")
    assert heard.status == 408
    assert 0.4 < heard.seconds < 6
    if method == "PATCH":
        status = say(node.url, head("GET", target, [AUTH]), until=b"\r\n\r\n")
        assert re.search(rb"(?i)range: 0-9", status.content)


async def test_a_paused_body_is_408_in_the_envelope(open_registry: OpenRegistry) -> None:
    """Slowloris: the same in process, for every route that reads a body."""
    target = open_registry({"server": {"body_idle_seconds": 0.1}})
    headers = [(b"authorization", basic(*ALICE).encode())]
    for method, path in (
        ("PUT", "/v2/alice/app/manifests/latest"),
        ("POST", "/auth/token"),
    ):
        async with asyncio.timeout(5):
            answer = await pause_forever(target.application, method, path, headers)
        assert answer.status == 408
        assert answer.json()["errors"][0]["code"] == "BLOB_UPLOAD_INVALID"


@pytest.mark.measuring
@pytest.mark.server
def test_many_slow_clients_do_not_stop_the_others(node: Node) -> None:
    """Slowloris: open connections cost little; a request beside them is answered at once."""
    host, port = node.server.host, node.server.port
    idle = [socket.create_connection((host, port)) for _ in range(200)]
    try:
        for connection in idle:
            connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-")
        started = time.perf_counter()
        assert say(node.url, head("GET", "/_ping"), until=b"Healthy").status == 200
        assert time.perf_counter() - started < 2
    finally:
        for connection in idle:
            connection.close()


@pytest.mark.server
def test_a_refused_body_does_not_hide_the_answer(node: Node) -> None:
    """A client that sends all before it reads must still learn that it is too much."""
    size = 5 << 20
    request = head("PUT", "/v2/alice/wire/manifests/large", [AUTH, ("Content-Length", str(size))])
    heard = say(node.url, request, b" " * size, until=b"errors", seconds=10)
    assert heard.status == 413


@pytest.mark.server
async def test_a_forged_line_does_not_reach_the_servers_log(node: Node) -> None:
    """Log injection: on the real server, through path, method and credentials."""
    mark = f"forged{time.monotonic_ns()}"
    say(
        node.url,
        head("GET", f"/v2/%0d%0a2026-01-01T00:00:00Z%20{mark}%1b[2J", [AUTH]),
        until=b"errors",
    )
    name = basic(f"x\r\n2026-01-01 {mark}", "y")
    say(node.url, head("GET", "/v2/", [("Authorization", name)]), until=b"errors")
    await asyncio.sleep(0.5)
    lines = [line for line in node.server.log.read_text().splitlines() if mark in line]
    assert lines, "the request was not logged at all"
    assert not [line for line in lines if line.startswith("2026-01-01")]
    assert not [line for line in lines if "\x1b" in line]


class BreakingStore(MemoryBlobStore):
    """Storage that fails in the middle of a stream."""

    async def read(
        self, key: str, *, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """Give half, and fail."""
        async for piece in super().read(key, start=start, stop=stop):
            yield piece[: len(piece) // 2]
            raise ContentDamagedError(key=key)


async def test_a_download_that_breaks_is_cut_and_not_completed(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """Design 5.10: bytes that storage lost end the connection, and are no error in the body."""
    target = open_registry(stores=[BreakingStore()])
    repository = connect(target).login(*ALICE).new_repository()
    digest = await repository.push_blob(b"x" * 1000)
    headers = [(b"authorization", basic(*ALICE).encode())]
    with pytest.raises(ContentDamagedError):
        await ask(target.application, "GET", repository.blob(digest), headers=headers)


@pytest.mark.server
async def test_a_file_that_storage_lost_is_never_a_whole_answer(node: Node) -> None:
    """Design 5.10: on the real server, which sends files past our code."""
    content = f"lost {time.monotonic_ns()}".encode() * 10_000
    digest = Digest.of(content)
    target = f"{PUSH}?digest={digest}"
    request = head("POST", target, [AUTH, ("Content-Length", str(len(content)))])
    assert say(node.url, request + content, until=b" 201 ").status == 201
    [file] = node.server.data_dir.glob(f"blobs/sha256/*/{digest.encoded}*")
    file.unlink()
    heard = say(node.url, head("GET", f"/v2/alice/wire/blobs/{digest}", [AUTH]), seconds=3)
    assert len(heard.content.partition(b"\r\n\r\n")[2]) < len(content)
    assert heard.is_closed or heard.status >= 500
