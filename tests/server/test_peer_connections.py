"""How many connections the peer endpoint takes, and for how long those that say nothing."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.replicas import HOST, Machine, Replicas

from dtr.server.replica import _serve_peers, peer_limits
from dtr.server.settings import Settings

LIMIT = 20
SOON = 20.0
CHECK = b"GET /peer/v1/check HTTP/1.1\r\nHost: x\r\n\r\n"

Connected = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def settings_of(machine: Machine, **server: float) -> Settings:
    """Give a machine's settings, as its agent writes them."""
    files = machine.credentials
    cluster = {
        "members_file": str(machine.members_file),
        "certificate": str(files.certificate),
        "key": str(files.key),
        "ca": str(files.ca),
        "peer_listen": f"{HOST}:{machine.port}",
    }
    return Settings.model_validate(
        {"storage": {"url": "replicated:"}, "cluster": cluster, "server": server}
    )


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[list[Machine]]:
    """Give two machines, of which the first one's endpoint serves, bounded."""
    machines = Replicas(tmp_path, 2).machines
    settings = settings_of(
        machines[0], connections_per_address=LIMIT, workers=1, header_read_seconds=1
    )
    machines[0].data.mkdir()
    serving = asyncio.create_task(_serve_peers(settings, machines[0].data))
    yield machines
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def connect(
    machine: Machine, source: str = HOST, context: ssl.SSLContext | None = None
) -> Connected:
    """Connect to a machine's endpoint, which may be about to listen."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                return await asyncio.open_connection(
                    HOST, machine.port, local_addr=(source, 0), ssl=context
                )
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)


async def ended(reader: asyncio.StreamReader) -> None:
    """Return once the endpoint has ended a connection."""
    with suppress(ConnectionError):
        while await reader.read(65536):
            pass


def trusted(machine: Machine) -> ssl.SSLContext:
    """Give what a machine shows to the others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(machine.credentials.ca)
    context.load_cert_chain(machine.credentials.certificate, machine.credentials.key)
    return context


async def is_served(connected: Connected) -> bool:
    """Ask whether the endpoint answers."""
    reader, writer = connected
    writer.write(CHECK)
    async with asyncio.timeout(SOON):
        found = await reader.readuntil(b"\r\n\r\n")
    return found.startswith(b"HTTP/1.1 204")


@pytest.mark.server
async def test_one_address_has_its_share_at_the_peer_endpoint(machines: list[Machine]) -> None:
    """Idle ones beyond it end; other addresses are served."""
    context = trusted(machines[1])
    over = LIMIT // 2
    opened = [await connect(machines[0], "127.0.0.2", context) for _ in range(LIMIT + over)]
    waiting = [asyncio.create_task(ended(reader)) for reader, _ in opened]
    for _, writer in opened:
        writer.write(CHECK)
    async with asyncio.timeout(SOON):
        for done in asyncio.as_completed(waiting):
            await done
            if sum(task.done() for task in waiting) >= over:
                break
    other = await connect(machines[0], "127.0.0.3", context)
    assert await is_served(other)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for _, writer in (*opened, other):
        writer.transport.abort()


@pytest.mark.server
async def test_a_stranger_that_says_nothing_is_cut_off_at_the_peer_endpoint(
    machines: list[Machine],
) -> None:
    """It never shows a certificate; replicas are served meanwhile, and later."""
    silent = [await connect(machines[0], "127.0.0.2") for _ in range(3 * LIMIT)]
    member = await connect(machines[0], context=trusted(machines[1]))
    assert await is_served(member)
    async with asyncio.timeout(SOON):
        await asyncio.gather(*(ended(reader) for reader, _ in silent))
    assert await is_served(member)
    for _, writer in (*silent, member):
        writer.transport.abort()


def test_a_replica_may_have_as_many_connections_as_with_all_web_workers() -> None:
    """An answer may pause for as long as it may last: a slow client may be behind the replica."""
    limits = peer_limits(Settings.model_validate({"server": {"workers": 4}}))
    assert limits.most_per_address == 4 * 256
    assert limits.idle_seconds == limits.whole_seconds
    assert limits.head_seconds == 10
