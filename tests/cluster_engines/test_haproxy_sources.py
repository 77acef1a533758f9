"""How many connections a real HAProxy takes of one source, and of all others meanwhile."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import pytest
from tests.support.namespaces import NamespaceThread, Network, require_namespaces
from tests.support.processes import ProcessGroup, free_port, requires

from dtr.cluster.engines import balancer
from dtr.cluster.engines.haproxy import MOST_CONNECTIONS, Frontend, render
from dtr.cluster.model import PoolMember

MOST = 160
SHARE = 16
LOOPBACK = "127.0.0.1"
GREETING = b"served"
FOUR = ("127.0.0.5", "127.0.0.6")


@dataclass(frozen=True)
class Place:
    """Where HAProxy listens in a test, and where the server that greets does."""

    directory: Path
    address: str
    https_port: int
    http_port: int
    greeter: int

    def write(self) -> Path:
        """Write a configuration whose only replica is the server that greets, never checked."""
        member = PoolMember(
            id="a" * 12, address=LOOPBACK, https_port=self.greeter, http_port=self.greeter
        )
        frontend = Frontend(
            self.https_port, self.http_port, ca="", address=self.address, most_connections=MOST
        )
        lines = render([member], frontend).splitlines()
        file = self.directory / "haproxy.cfg"
        file.write_text("\n".join(line for line in lines if "default-server" not in line) + "\n")
        return file


def place_of(directory: Path) -> Place:
    """Give a place on free ports of this machine."""
    return Place(directory, "*", free_port(), free_port(), free_port())


@pytest.mark.server
async def test_one_address_cannot_have_all_connections(tmp_path: Path) -> None:
    """It gets its share over both ports; others are served; what it closes it may open again."""
    place = place_of(tmp_path)
    with running(place):
        async with greeting(place.greeter), Clients() as greedy, Clients() as others:
            assert await greedy.open("127.0.0.5", place.https_port, 2 * SHARE) == SHARE
            assert await greedy.open("127.0.0.5", place.http_port, 3) == 0
            assert await others.open("127.0.0.6", place.https_port, SHARE) == SHARE
            await greedy.close()
            await greedy.until_open("127.0.0.5", place.https_port)


@pytest.mark.server
async def test_a_reload_cuts_nobody_and_counts_anew(tmp_path: Path) -> None:
    """Connections from before go on; after it the same share holds for the new ones."""
    place = place_of(tmp_path)
    with running(place) as master:
        async with greeting(place.greeter), Clients() as before, Clients() as after:
            assert await before.open("127.0.0.5", place.https_port, 2 * SHARE) == SHARE
            os.kill(master.pid, signal.SIGUSR2)
            await after.until_open("127.0.0.5", place.https_port)
            assert await after.open("127.0.0.5", place.https_port, 2 * SHARE) == SHARE - 1
            assert await after.open("127.0.0.6", place.https_port, 1) == 1
            assert before.all_live()


@pytest.mark.cluster
def test_a_network_of_ipv6_counts_as_one_and_addresses_of_ipv4_do_not(tmp_path: Path) -> None:
    """A /64 is one customer's; at a socket for both, all of IPv4 would be in one."""
    require_namespaces()
    with ExitStack() as stack:
        network = Network()
        stack.callback(network.close)
        network.open()
        space = network.plug_in("balancer", "fd77::11")
        enter: list[str | Path] = [requires("nsenter"), f"--net=/run/netns/{space}"]
        for address in ("fd77:0:0:1::1", "fd77:0:0:1:ffff::2", "fd77:0:0:2::1"):
            command = [*enter, requires("ip"), "address", "add", address, "dev", "lo", "nodad"]
            subprocess.run(command, check=True)
        place = Place(tmp_path, "::", 7443, 7080, 7081)
        stack.enter_context(running(place, inside=enter))
        thread = NamespaceThread(space)
        stack.callback(thread.close)
        found = thread.call(count_by_source(place))
    assert found == {
        "fd77:0:0:1::1": SHARE,
        "fd77:0:0:1:ffff::2": 0,
        "fd77:0:0:2::1": SHARE,
        "127.0.0.5": SHARE,
        "127.0.0.6": SHARE,
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [(-1, MOST_CONNECTIONS), (524_288, MOST_CONNECTIONS), (4096, 1948), (256, 100)],
)
def test_the_share_follows_what_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, files: int, expected: int
) -> None:
    """With few open files HAProxy takes fewer connections: a fixed share would be all of them."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, files))
    assert balancer._most_connections() == expected
    assert Frontend(443, 80, ca="", most_connections=expected).most_of_one_source <= expected // 5


async def count_by_source(place: Place) -> dict[str, int]:
    """Open more than a share from each of some addresses, one after the other."""
    found: dict[str, int] = {}
    async with greeting(place.greeter), Clients() as clients:
        for source in ("fd77:0:0:1::1", "fd77:0:0:1:ffff::2", "fd77:0:0:2::1", *FOUR):
            host = "fd77:0:0:1::1" if ":" in source else LOOPBACK
            found[source] = await clients.open(source, place.https_port, SHARE + 4, host)
    return found


@contextmanager
def running(place: Place, *, inside: list[str | Path] | None = None) -> Iterator[ProcessGroup]:
    """Run HAProxy as the agent does: a master with a worker, which a reload replaces."""
    program: list[str | Path] = [requires("haproxy"), "-W", "-db", "-f", place.write()]
    group = ProcessGroup([*(inside or []), *program], log=place.directory / "haproxy.log")
    group.start()
    try:
        yield group
    finally:
        group.kill()


class Greeter(asyncio.Protocol):
    """Tells every connection that it is served, and ends it when its client does."""

    def __init__(self, running: set[asyncio.BaseTransport]) -> None:
        self._running = running

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._running.add(transport)
        cast("asyncio.Transport", transport).write(GREETING)


@asynccontextmanager
async def greeting(port: int) -> AsyncIterator[None]:
    """Serve with greeters; at the end, all connections end."""
    running: set[asyncio.BaseTransport] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Greeter(running), LOOPBACK, port)
    try:
        yield
    finally:
        server.close()
        for each in running:
            each.close()
        await asyncio.sleep(0)


class Clients:
    """Connections of clients, which end with the test."""

    def __init__(self) -> None:
        self._served: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, source: str, port: int, count: int, host: str = LOOPBACK) -> int:
        """Open connections one after the other; return how many of them are served."""
        return sum([await self._open_one(source, port, host) for _ in range(count)])

    async def until_open(self, source: str, port: int) -> None:
        """Return once one more is served."""
        async with asyncio.timeout(30):
            while True:
                if await self._open_one(source, port, LOOPBACK):
                    return
                await asyncio.sleep(0.05)

    def all_live(self) -> bool:
        """Whether none was ended from the other side."""
        return not any(writer.transport.is_closing() for writer in self._served)

    async def close(self) -> None:
        """End all of them."""
        while self._served:
            await _end(self._served.pop())

    async def _open_one(self, source: str, port: int, host: str) -> bool:
        try:
            reader, writer = await _connect(source, host, port)
        except ConnectionResetError:
            return False
        try:
            await reader.readexactly(len(GREETING))
        except (asyncio.IncompleteReadError, ConnectionError):
            await _end(writer)
            return False
        self._served.append(writer)
        return True


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def _connect(
    source: str, host: str, port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect; HAProxy may still be about to listen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    async with asyncio.timeout(30):
        while True:
            try:
                return await asyncio.open_connection(
                    host, port, family=family, local_addr=(source, 0)
                )
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
