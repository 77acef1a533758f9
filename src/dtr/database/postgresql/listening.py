"""LISTEN: be told of changes instead of asking for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import psycopg
from psycopg import sql

from dtr.database.postgresql.connections import Driver, Server

_PAUSE_SECONDS: Final = 1.0


async def changes(server: Server, channel: str, *, poll_seconds: float) -> AsyncIterator[None]:
    """Yield at each notice on `channel`, after each new connection, and at least every poll."""
    woken = asyncio.Event()
    listener = asyncio.create_task(_listen(server, channel, woken), name=f"listen to {channel}")
    try:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(poll_seconds):
                    await woken.wait()
            woken.clear()
            if listener.done():
                listener.result()  # an error that nobody expected: whoever asks is to know
            yield
    finally:
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener


async def _listen(server: Server, channel: str, woken: asyncio.Event) -> None:
    """Set `woken` at each notice; a lost connection is replaced, and what it missed asked for."""
    loop = asyncio.get_running_loop()
    while True:
        driver: Driver | None = None
        lost = asyncio.Event()
        try:
            driver = await server.connect_aside()
            driver.autocommit = True
            driver.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            descriptor = driver.fileno()
            loop.add_reader(descriptor, _take, driver, woken, lost)
            woken.set()
            try:
                await lost.wait()
            finally:
                loop.remove_reader(descriptor)
        except psycopg.Error:
            pass
        finally:
            if driver is not None:
                driver.close()
        await asyncio.sleep(_PAUSE_SECONDS)


def _take(driver: Driver, woken: asyncio.Event, lost: asyncio.Event) -> None:
    try:
        driver.pgconn.consume_input()
        while driver.pgconn.notifies() is not None:
            woken.set()
    except psycopg.Error:
        lost.set()
