"""Notices of PostgreSQL: at once, also after the connection was lost, and none that was undone."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import psycopg
import pytest
from tests.database.settings_table import RefusedError, put

from dtr.database import Writer
from dtr.database.postgresql import PostgresqlDatabase

pytestmark = pytest.mark.postgresql

CHANNEL = "signing_keys"


@pytest.fixture
async def database(schema_url: str) -> AsyncIterator[PostgresqlDatabase]:
    """Give an empty registry's metadata."""
    database = PostgresqlDatabase(schema_url)
    yield database
    database.close()


def tell(writer: Writer, channel: str = CHANNEL) -> None:
    """Give notice."""
    writer.notify(channel)


def tell_and_fail(writer: Writer) -> None:
    """Think better of it."""
    tell(writer)
    raise RefusedError


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds, which is soon."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


class Listener:
    """Counts how often a channel's listener is woken; a poll would come too late to be counted."""

    def __init__(self, database: PostgresqlDatabase) -> None:
        self.woken = 0
        self._task = asyncio.create_task(self._run(database))

    async def _run(self, database: PostgresqlDatabase) -> None:
        async for _ in database.changes(CHANNEL, poll_seconds=300):
            self.woken += 1

    async def woken_beyond(self, count: int) -> int:
        """Return once it was woken more often than `count`."""
        await until(lambda: self.woken > count)
        return self.woken

    async def close(self) -> None:
        """End it and its connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def listener(database: PostgresqlDatabase) -> AsyncIterator[Listener]:
    """Give a listener that has been woken by its first connection."""
    listener = Listener(database)
    await listener.woken_beyond(0)
    yield listener
    await listener.close()


async def test_a_committed_notice_comes_at_once(
    database: PostgresqlDatabase, listener: Listener
) -> None:
    """Each time, and not where the unit was undone or the channel is another."""
    for _ in range(3):
        seen = listener.woken
        await database.write(tell)
        await listener.woken_beyond(seen)
    seen = listener.woken
    await database.write(tell, "another")
    with pytest.raises(RefusedError):
        await database.write(tell_and_fail)
    await database.write(put, "k")
    await asyncio.sleep(0.3)
    assert listener.woken == seen


async def test_a_lost_connection_is_replaced_and_counts_as_a_notice(
    database: PostgresqlDatabase, listener: Listener, schema_url: str
) -> None:
    """What was missed meanwhile must be looked for."""
    seen = listener.woken
    with psycopg.connect(schema_url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
        ).fetchall()
    assert rows == [(True,)]
    seen = await listener.woken_beyond(seen)
    await database.write(tell)
    await listener.woken_beyond(seen)


async def test_who_stops_listening_leaves_no_connection(
    database: PostgresqlDatabase, schema_url: str
) -> None:
    """Also while it still connects."""
    for turns in range(4):
        listener = Listener(database)
        for _ in range(turns):
            await asyncio.sleep(0.005)
        await listener.close()
    with psycopg.connect(schema_url, autocommit=True) as connection:
        await until(lambda: not _others(connection))


def _others(connection: "psycopg.Connection[tuple[int]]") -> int:
    row = connection.execute(
        "SELECT count(*)::int FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchone()
    assert row is not None
    return int(row[0])
