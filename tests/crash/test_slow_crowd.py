"""Five thousand clients that are slow on purpose, and others that notice nothing of them."""

import asyncio
import contextlib
import itertools
import multiprocessing
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from tests.http.client import basic
from tests.http.wire import head, say
from tests.support.server import RunningServer

from dtr.model.digest import Digest
from dtr.testing.registry import ALICE

CROWD = 5000
ADDRESSES = 50
FILES = 8000
ATTACK_SECONDS = 20
PATIENCE_SECONDS = 30
AUTH = ("Authorization", basic(*ALICE))
CONTENT = b"x" * (8 << 20)
BLOB = f"/v2/alice/crowd/blobs/{Digest.of(CONTENT)}"

pytestmark = [pytest.mark.crash, pytest.mark.server]


@pytest.fixture
def open_files() -> Iterator[None]:
    """Allow this process enough connections, or skip."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < FILES:
        pytest.skip(f"needs {FILES} open files, and the limit is {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, FILES), most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


class Crowd:
    """Clients that open connections again and again, and give them next to nothing to do.

    They run in a process of their own, or the others would wait for them and not for the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._requests = requests()
        self._context = multiprocessing.get_context("fork")
        self._opened = self._context.Value("l", 0)
        self._process = self._context.Process(target=self._run, daemon=True)

    @property
    def opened(self) -> int:
        """How many connections they opened so far."""
        return int(self._opened.value)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def _run(self) -> None:
        asyncio.run(self._come())

    async def _come(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(CROWD):
                group.create_task(self._be_slow(number))
                if number % 50 == 0:
                    await asyncio.sleep(0.05)

    async def _be_slow(self, number: int) -> None:
        address = f"127.1.{number % ADDRESSES}.1"
        request, more = next(self._requests)
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, local_addr=(address, 0), limit=4096
                )
                self._opened.value += 1
                try:
                    writer.write(request)
                    while not reader.at_eof() and not writer.transport.is_closing():
                        await asyncio.sleep(5)
                        writer.write(more)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(1)


def requests() -> "itertools.cycle[tuple[bytes, bytes]]":
    """Return what the slow begin with and go on with, in turns."""
    large = [("Content-Length", "1000000")]
    return itertools.cycle(
        [
            (head("PUT", "/v2/alice/crowd/manifests/x", large), b"x"),
            (head("PUT", "/v2/alice/crowd/manifests/x", large), b"x"),
            (b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"x"),
            (head("POST", "/auth/token", [("Content-Length", "1000")]), b"x"),
            (head("GET", BLOB, [AUTH]), b""),
            (b"", b""),
        ]
    )


def besiege(server: RunningServer) -> tuple[int, list[float]]:
    """Let the crowd come while others ask; return its connections, and what the others waited."""
    waited = []
    with Crowd(server.host, server.port) as crowd:
        begun = time.monotonic()
        while crowd.opened < CROWD or time.monotonic() - begun < ATTACK_SECONDS:
            assert time.monotonic() - begun < 6 * ATTACK_SECONDS, crowd.opened
            for request, expected in (
                (head("GET", "/_ping"), b"Healthy"),
                (head("GET", "/v2/alice/crowd/tags/list", [AUTH]), b"tags"),
            ):
                heard = say(server.url, request, seconds=PATIENCE_SECONDS, until=expected)
                assert heard.status == 200
                waited.append(heard.seconds)
            time.sleep(0.2)
        return crowd.opened, waited


@pytest.mark.usefixtures("open_files")
def test_five_thousand_slow_clients_are_not_noticed_by_others(tmp_path: Path) -> None:
    """Refused bodies, heads and sign-ins byte by byte, downloads nobody reads, and silence."""
    with RunningServer(tmp_path, environment={"DTR_LOG__ACCESS": "false"}) as server:
        server.add_user(*ALICE)
        target = f"/v2/alice/crowd/blobs/uploads/?digest={Digest.of(CONTENT)}"
        request = head("POST", target, [AUTH, ("Content-Length", str(len(CONTENT)))])
        assert say(server.url, request + CONTENT, seconds=60, until=b" 201 ").status == 201
        opened, waited = besiege(server)
    waited.sort()
    middle = waited[len(waited) // 2]
    # With `-s`, for who wants the figures.
    print(
        f"{opened} connections; {len(waited)} answers, {middle:.3f} s, slowest {waited[-1]:.3f} s"
    )
    assert opened >= CROWD
    assert len(waited) >= 20
