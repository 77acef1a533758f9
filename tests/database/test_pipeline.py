"""What only the connection of PostgreSQL's look-ups can meet: its errors, and other schemas."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import bindparam, cast, column, func, literal_column, select, table
from sqlalchemy.types import ARRAY, Integer
from tests.database.settings_table import put

from dtr.database import Lookup, stale_reads
from dtr.database.postgresql import PostgresqlDatabase
from dtr.database.schema import settings
from dtr.model.errors import RegistryError

pytestmark = pytest.mark.postgresql

VALUE = Lookup(select(settings.c.value).where(settings.c.key == bindparam("key")))
DIVIDED = Lookup(select(100 // cast(bindparam("by"), Integer)))
SLEPT = Lookup(select(func.pg_sleep(bindparam("seconds")).cast(settings.c.value.type)))
MISSING = Lookup(select(table("missing", column("key")).c.key))
BACKEND = Lookup(select(func.pg_backend_pid()))
SOON = 3.0


@pytest.fixture
async def database(schema_url: str) -> AsyncIterator[PostgresqlDatabase]:
    """Give metadata that gives up soon, with a row."""
    database = PostgresqlDatabase(schema_url, wait_seconds=6)
    await database.write(put, "k", "v")
    yield database
    database.close()


def execute(url: str, *statements: str) -> None:
    """Do something to the database behind everybody's back."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


async def found(database: PostgresqlDatabase, lookup: Lookup = VALUE, **parameters: Any) -> Any:
    """Return the first column that a look-up finds, within a short time."""
    async with asyncio.timeout(SOON):
        row = await database.lookup(lookup, parameters or {"key": "k"})
    return None if row is None else row[0]


async def test_an_error_is_its_own_querys(database: PostgresqlDatabase) -> None:
    """Those that left in the same packet are asked again and answered."""
    for _ in range(5):
        outcomes = await asyncio.gather(
            *(found(database, DIVIDED, by=number % 5) for number in range(50)),
            *(found(database) for _ in range(50)),
            return_exceptions=True,
        )
        for number, outcome in enumerate(outcomes[:50]):
            if number % 5:
                assert outcome == 100 // (number % 5)
            else:
                assert isinstance(outcome, psycopg.errors.DivisionByZero)
        assert outcomes[50:] == ["v"] * 50


async def test_a_statement_that_cannot_be_prepared_is_refused_until_it_can(
    database: PostgresqlDatabase, schema_url: str
) -> None:
    """And no statement beside it is taken for prepared that is not."""
    for _ in range(2):
        answers = await asyncio.gather(
            found(database, MISSING, key=""),
            found(database),
            found(database, DIVIDED, by=5),
            return_exceptions=True,
        )
        assert isinstance(answers[0], psycopg.errors.UndefinedTable)
        assert list(answers[1:]) == ["v", 20]
    execute(schema_url, "CREATE TABLE missing (key text)", "INSERT INTO missing VALUES ('here')")
    assert await found(database, MISSING, key="") == "here"


async def test_a_prepared_statement_outlives_a_change_of_the_schema(
    database: PostgresqlDatabase, schema_url: str
) -> None:
    """A migration beside running programs changes plans, and even types."""
    assert await found(database) == "v"
    for change in (
        "ALTER TABLE settings ADD COLUMN more text",
        "ALTER TABLE settings ALTER COLUMN value TYPE varchar(255)",
        "ALTER TABLE settings ALTER COLUMN value TYPE text",
        "DEALLOCATE ALL",
    ):
        execute(schema_url, change)
        assert await asyncio.gather(*(found(database) for _ in range(3))) == ["v"] * 3


async def test_a_type_that_nobody_reads_yet_is_an_error_and_no_silence(
    database: PostgresqlDatabase,
) -> None:
    """Whoever asks is answered, and so are those behind."""
    array = Lookup(select(literal_column("ARRAY[1]", ARRAY(Integer))))
    answers = await asyncio.gather(found(database, array), found(database), return_exceptions=True)
    assert isinstance(answers[0], KeyError)
    assert answers[1] == "v"


async def test_a_connection_that_is_cut_off_is_replaced(
    database: PostgresqlDatabase, schema_url: str
) -> None:
    """While it is idle, and in the middle of queries."""
    for is_idle in (True, False, True, False):
        backend = await found(database, BACKEND)
        asked = [] if is_idle else [found(database, SLEPT, seconds=0.5) for _ in range(2)]
        waiting = [asyncio.create_task(each) for each in asked]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(execute, schema_url, f"SELECT pg_terminate_backend({backend})")
        assert await asyncio.gather(*waiting) == [""] * len(waiting)
        assert await found(database) == "v"
        assert await found(database, BACKEND) != backend


async def test_a_slow_query_is_given_up_with_its_connection(database: PostgresqlDatabase) -> None:
    """Nobody can tell a slow server from a frozen one; who waited behind is answered."""
    slow = asyncio.create_task(database.lookup(SLEPT, {"seconds": 120}))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(60):  # given up after some seconds, and not when the query ends
        assert await database.lookup(VALUE, {"key": "k"}) == ("v",)
    with pytest.raises(RegistryError):
        await slow
    assert not stale_reads.get()


async def test_what_was_never_asked_closes_too(schema_url: str) -> None:
    """A process may end before its first look-up, or while it still connects."""
    database = PostgresqlDatabase(schema_url)
    database.close()
    database = PostgresqlDatabase(schema_url)
    waiting = asyncio.create_task(database.lookup(VALUE, {"key": "k"}))
    await asyncio.sleep(0)
    database.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
