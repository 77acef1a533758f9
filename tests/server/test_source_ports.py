"""The front connects from a port that says whose a connection is, and runs out of none."""

import asyncio
import random
import socket
from contextlib import suppress
from pathlib import Path

from tests.support.processes import free_port

from dtr.asgi.peers import PeerTable
from dtr.server.front import Front, listen_for_balancers
from dtr.server.proxy_protocol import SIGNATURE
from dtr.server.settings import Settings
from dtr.server.source_ports import SourcePorts

HERE = "127.0.0.1"
HEAD = SIGNATURE + bytes.fromhex("2111000c c0000207 c0000202 1f90 01bb")
FEW = 8
MANY = 100
SOON = 20.0


def few_ports() -> tuple[int, int]:
    """Return a few ports, most of which nobody has."""
    first = random.randint(20_000, 30_000)
    return first, first + FEW - 1


def all_bound(ports: SourcePorts) -> list[tuple[socket.socket, int]]:
    """Take all there are."""
    bound = []
    with suppress(OSError):
        while True:
            bound.append(ports.bound())
    return bound


def test_a_port_is_one_connections_at_a_time() -> None:
    """The next ones get others, until there are none; one that is released is given again."""
    ports = SourcePorts(HERE, few_ports())
    bound = all_bound(ports)
    assert len({port for _, port in bound}) == len(bound) >= FEW // 2
    connection, port = bound.pop()
    connection.close()
    ports.release(port)
    bound += all_bound(ports)
    assert bound[-1][1] == port
    for each, _ in bound:
        each.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be a web worker that says from which port it was asked, once its client has ended."""
    with suppress(ConnectionError):
        await reader.read()
        writer.write(b"%d" % writer.get_extra_info("peername")[1])
        await writer.drain()
    writer.close()


async def ask_and_end_first(port: int) -> bytes:
    """Connect as a balancer, and end: what ends first is kept by the kernel for a minute."""
    reader, writer = await asyncio.open_connection(HERE, port)
    writer.write(HEAD + b"x")
    writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_short_connections_do_not_use_up_the_ports(tmp_path: Path) -> None:
    """A stranger behind a balancer may make so many that nobody else would be passed on."""
    web = balanced = free_port()
    while balanced == web:
        balanced = free_port()
    settings = Settings.model_validate(
        {
            "server": {
                "listen": f"{HERE}:{web}",
                "proxy_listen": f"{HERE}:{balanced}",
                "balancers": [f"{HERE}/32"],
            }
        }
    )
    assert settings.server.proxy_listen is not None
    PeerTable.create(tmp_path / "run" / "peers")
    with listen_for_balancers(settings.server.proxy_listen) as listening:
        front = Front(settings, tmp_path / "run" / "peers", listening, is_tls=False)
        front.ports = SourcePorts(HERE, few_ports())
        worker = await asyncio.start_server(echo, HERE, web)
        serving = asyncio.create_task(front.serve())
        async with worker, asyncio.timeout(SOON):
            asked_from = [await ask_and_end_first(balanced) for _ in range(MANY)]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert all(asked_from)
    assert len(set(asked_from)) <= FEW


def test_a_port_that_another_program_listens_at_is_passed_over() -> None:
    """It would take what is meant for others."""
    with socket.create_server((HERE, 0)) as other:
        port = other.getsockname()[1]
        ports = SourcePorts(HERE, (port, port + 1))
        bound = all_bound(ports)
        assert port not in {each for _, each in bound}
        for connection, _ in bound:
            connection.close()
