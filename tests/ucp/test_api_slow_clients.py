"""Clients of the controllers' API that are slow on purpose hold nothing for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from aiohttp import web
from pydantic import JsonValue
from tests.support.processes import free_port

from dtr.asgi.connection_rules import ConnectionLimits
from dtr.asgi.connections import Connections
from dtr.testing.store import MemoryStore
from dtr.ucp.api import PREFIX, Access, ApiRequest, ApiRoute
from dtr.ucp.controller.access import Gate
from dtr.ucp.controller.server import ApiServer
from dtr.ucp.controller.sessions import Administrators

SOON = 20.0
LIMIT = 20
LIMITS = ConnectionLimits(head_seconds=0.5, idle_seconds=1, most_per_address=LIMIT)
PING = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"


async def wait_long(_: ApiRequest) -> JsonValue:
    """Answer late, as who watches for a change does."""
    await asyncio.sleep(2)
    return "changed"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Give the port of an API whose connections are looked after."""
    store, found = MemoryStore(), free_port()
    connections = Connections(found, LIMITS)
    administrators = Administrators(store)
    route = ApiRoute("GET", "/late", Access.OPEN, wait_long)
    server = ApiServer(store, Gate(store, administrators), [route], connections=connections)
    runner = server.runner(shutdown_seconds=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", found).start()
    following = asyncio.create_task(connections.follow())
    yield found
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await runner.cleanup()
    administrators.close()


async def ended(reader: asyncio.StreamReader) -> None:
    """Return once the server has ended a connection."""
    with suppress(ConnectionError):
        while await reader.read(65536):
            pass


async def test_a_head_that_does_not_end_is_cut_off(port: int) -> None:
    """Of a new connection, whatever it has sent of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PING[:20])
    async with asyncio.timeout(SOON):
        await ended(reader)
    writer.transport.abort()


async def test_who_waits_for_a_change_is_left_alone(port: int) -> None:
    """For longer than a head may take."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {PREFIX}/late HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(SOON):
        assert b"changed" in await reader.readuntil(b"changed")
    writer.transport.abort()


async def test_one_address_has_its_share_of_connections(port: int) -> None:
    """Idle ones beyond it are ended, and others are served."""
    opened = [
        await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
        for _ in range(2 * LIMIT)
    ]
    for _, writer in opened:
        writer.write(PING)
    waiting = [asyncio.create_task(ended(reader)) for reader, _ in opened]
    async with asyncio.timeout(SOON):
        for done in asyncio.as_completed(waiting):
            await done
            if sum(task.done() for task in waiting) >= LIMIT:
                break
        reader, other = await asyncio.open_connection("127.0.0.1", port)
        other.write(PING)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    for task in waiting:
        task.cancel()
    for _, writer in [*opened, (reader, other)]:
        writer.transport.abort()
    await asyncio.gather(*waiting, return_exceptions=True)
