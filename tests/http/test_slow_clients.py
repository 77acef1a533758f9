"""Clients that are slow, on purpose or not: each has its time, and nobody else waits for them."""

import asyncio
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.http.asgi import dribble
from tests.http.client import basic
from tests.http.conftest import OpenRegistry
from tests.http.wire import head, say
from tests.support.server import RunningServer

from dtr.model.digest import Digest
from dtr.testing.registry import ALICE

pytestmark = pytest.mark.server

AUTH = ("Authorization", basic(*ALICE))
LIMIT = 20
SOON = 15.0
LARGE = b"x" * (24 << 20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Give a server with short limits, one worker, and alice with a large blob."""
    environment = {
        "DTR_SERVER__WORKERS": "1",
        "DTR_SERVER__BODY_IDLE_SECONDS": "0.5",
        "DTR_SERVER__HEADER_READ_SECONDS": "0.5",
        "DTR_SERVER__SMALL_BODY_SECONDS": "1",
        "DTR_SERVER__CONNECTIONS_PER_ADDRESS": str(LIMIT),
        "DTR_LOG__ACCESS": "false",
    }
    directory = tmp_path_factory.mktemp("slow")
    with RunningServer(directory, environment=environment) as running:
        running.add_user(*ALICE)
        target = f"/v2/alice/slow/blobs/uploads/?digest={Digest.of(LARGE)}"
        request = head("POST", target, [AUTH, ("Content-Length", str(len(LARGE)))])
        assert say(running.url, request + LARGE, seconds=60, until=b" 201 ").status == 201
        yield running


def test_a_refused_body_is_answered_at_once(server: RunningServer) -> None:
    """Not when its rest has come, which may be never."""
    request = head("PUT", "/v2/alice/slow/manifests/x", [("Content-Length", "1000000")])
    heard = say(server.url, request + b"{", seconds=SOON, until=b"errors")
    assert heard.status == 401


def test_a_refused_body_is_read_for_a_short_time_only(server: RunningServer) -> None:
    """However the client goes on to send a byte now and then."""
    request = head("PUT", "/v2/alice/slow/manifests/x", [("Content-Length", "1000000")])
    with connected(server) as connection:
        connection.sendall(request)
        assert is_ended_while_sending(connection, b"x")


def test_a_download_that_is_not_read_is_ended(server: RunningServer) -> None:
    """The server's file goes out without our code, and must not stay with whoever reads nothing."""
    with connected(server, receive_bytes=4096) as connection:
        connection.sendall(head("GET", f"/v2/alice/slow/blobs/{Digest.of(LARGE)}", [AUTH]))
        assert is_ended(connection)


def test_a_kept_connection_outlives_the_time_for_a_head(server: RunningServer) -> None:
    """Two limits with two duties: a balancer's kept connections are not closed under it."""
    with connected(server) as connection:
        for pause in (2.0, 0.0):
            connection.sendall(head("GET", "/_ping"))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(pause)


def test_a_second_head_that_does_not_end_is_cut_off(server: RunningServer) -> None:
    """A kept connection is no way around the limit of a head."""
    with connected(server) as connection:
        connection.sendall(head("GET", "/_ping"))
        assert b"200" in connection.recv(65536)
        time.sleep(1.5)  # it is at rest when the next head begins
        assert is_ended_while_sending(connection, b"G")


def test_one_address_has_its_share_of_connections(server: RunningServer) -> None:
    """Idle ones beyond it are ended, and another address is served meanwhile."""
    with ExitStack() as stack:
        kept = [stack.enter_context(connected(server, "127.0.0.2")) for _ in range(3 * LIMIT)]
        for connection in kept:
            connection.sendall(head("GET", "/_ping"))
        deadline = time.monotonic() + SOON
        while (count := sum(not is_ended(each, seconds=0) for each in kept)) > LIMIT:
            assert time.monotonic() < deadline, count
            time.sleep(0.1)
        assert say(server.url, head("GET", "/_ping"), until=b"Healthy").status == 200
        assert count == LIMIT


@pytest.mark.parametrize("path", ["/auth/token", "/v2/alice/app/manifests/latest"])
async def test_a_small_body_has_a_deadline_as_a_whole(
    open_registry: OpenRegistry, path: str
) -> None:
    """A byte every now and then is no pause, and does not hold the request open."""
    limits = {"body_idle_seconds": 60, "small_body_seconds": 0.5, "least_bytes_per_second": 0}
    target = open_registry({"server": limits})
    method = "POST" if path == "/auth/token" else "PUT"
    async with asyncio.timeout(SOON):
        answer = await dribble(
            target.application, method, path, [(b"authorization", AUTH[1].encode())]
        )
    assert answer.status == 408
    assert "did not end within 0.5 seconds" in answer.json()["errors"][0]["message"]


async def test_a_large_body_has_a_deadline_as_a_whole(open_registry: OpenRegistry) -> None:
    """No request is open for ever: who it is and what it may do was looked at when it began."""
    target = open_registry({"server": {"transfer_seconds": 1, "least_bytes_per_second": 0}})
    path = "/v2/alice/app/blobs/uploads/"
    query = f"digest={Digest.of(b'never')}".encode()
    authorization = [(b"authorization", AUTH[1].encode())]
    async with asyncio.timeout(SOON):
        answer = await dribble(target.application, "POST", path, authorization, query=query)
    assert answer.status == 408
    assert "did not end within 1 seconds" in answer.json()["errors"][0]["message"]


async def test_a_body_has_a_least_rate(open_registry: OpenRegistry) -> None:
    """A byte just before each pause ends is too slow, though no pause is too long."""
    limits = {"body_idle_seconds": 0.5, "least_bytes_per_second": 1000}
    target = open_registry({"server": limits})
    path = "/v2/alice/app/blobs/uploads/"
    query = f"digest={Digest.of(b'never')}".encode()
    authorization = [(b"authorization", AUTH[1].encode())]
    async with asyncio.timeout(SOON):
        answer = await dribble(target.application, "POST", path, authorization, query=query)
    assert answer.status == 408
    assert "less than 1000 bytes per second" in answer.json()["errors"][0]["message"]


def connected(
    server: RunningServer, address: str = "127.0.0.1", *, receive_bytes: int = 0
) -> socket.socket:
    """Return a connection from an address of this machine."""
    connection = socket.socket()
    connection.settimeout(SOON)
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.bind((address, 0))
    connection.connect((server.host, server.port))
    return connection


def is_ended(connection: socket.socket, *, seconds: float = SOON) -> bool:
    """Wait until the server ended a connection, without reading what it sent before."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(seconds * 1000))


def is_ended_while_sending(connection: socket.socket, byte: bytes) -> bool:
    """Send a byte again and again until the server ended the connection."""
    deadline = time.monotonic() + SOON
    try:
        while time.monotonic() < deadline and not is_ended(connection, seconds=0.1):
            connection.sendall(byte)
    except OSError:
        return True
    return time.monotonic() < deadline
