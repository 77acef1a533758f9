"""What is SQLite's own: other processes' locks, full disks, damaged files, the log."""

import asyncio
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.crash.disks import small_disk
from tests.database.processes import another_process, let_go
from tests.database.settings_table import (
    count,
    keys,
    put,
)

from dtr.database import Lookup, Reader, SqliteDatabase, Writer, open_database
from dtr.database.migrate import migrate
from dtr.database.schema import settings
from dtr.model.errors import (
    ContentDamagedError,
    RegistryError,
    StorageFullError,
    UnavailableError,
)


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
async def test_a_unit_waits_for_another_process(database: SqliteDatabase, statement: str) -> None:
    """It is retried whole until the lock is free, and runs once."""
    with another_process(database.path, statement) as process:
        let_go(process, 0.8)
        started = time.monotonic()
        outcomes = await asyncio.gather(
            database.write(put, "one"), database.write(put, "two"), database.write_soon(put, "soon")
        )
        assert list(outcomes) == ["one", "two", "soon"]
        assert time.monotonic() - started > 0.4
    assert database.read_now(keys) == ["one", "soon", "two"]


@pytest.mark.measuring
async def test_readers_do_not_wait_for_a_writer(database: SqliteDatabase) -> None:
    """Another process that writes stops neither units nor point queries."""
    lookup = Lookup(settings.select())
    with another_process(database.path, "BEGIN IMMEDIATE", "DELETE FROM settings"):
        started = time.monotonic()
        assert await database.read(keys) == []
        assert await database.lookup(lookup, {}) is None
        assert time.monotonic() - started < 1


async def test_a_lock_that_is_never_free_is_said(tmp_path: Path) -> None:
    """After `wait_seconds` the registry is unavailable, in its own words."""
    database = open_database(tmp_path / "dtr.db", wait_seconds=0.5)
    migrate(database.engine)
    with another_process(database.path, "BEGIN IMMEDIATE"):
        with pytest.raises(UnavailableError):
            await database.write(put, "one")
        with pytest.raises(UnavailableError):
            database.write_now(put, "one")
    assert await database.write(put, "one") == "one"
    database.close()


@pytest.mark.parametrize("kind", ["write", "write_now", "read"])
async def test_a_first_connection_waits_too(tmp_path: Path, kind: str) -> None:
    """Another process may be recovering the file after a crash when this one opens it."""
    path = tmp_path / "dtr.db"
    with open_made(path):
        pass
    database = open_database(path, wait_seconds=20)
    exclusive = ("PRAGMA locking_mode=EXCLUSIVE", "BEGIN IMMEDIATE", "DELETE FROM settings")
    with another_process(path, *exclusive) as process:
        let_go(process, 0.8)
        match kind:
            case "write":
                assert await database.write(put, "one") == "one"
            case "write_now":
                assert database.write_now(put, "one") == "one"
            case "read":
                assert await database.read(keys) == []
    database.close()


@contextmanager
def open_made(path: Path) -> Iterator[SqliteDatabase]:
    """Open a database that has the schema."""
    database = open_database(path)
    migrate(database.engine)
    yield database
    database.close()


async def test_a_reader_cannot_be_used_to_write_by_mistake(database: SqliteDatabase) -> None:
    """What a read unit changes is not kept."""

    def write(reader: Reader) -> None:
        reader.execute(settings.insert().values(key="k", value=""))

    await database.read(write)
    assert await database.read(count) == 0


async def test_a_full_disk_is_said_and_harms_nothing(tmp_path: Path) -> None:
    """Units fail whole, readers go on, and room makes it good again without opening anew."""
    with small_disk(tmp_path / "disk", 2) as disk, open_made(disk.path / "dtr.db") as database:
        assert await database.write(put, "before") == "before"
        disk.fill()
        with pytest.raises(StorageFullError):
            await _put_without_end(database)
        written = await database.read(count)
        assert written % 2 == 1
        outcomes = await asyncio.gather(
            *(database.write(_put_many, f"group {number}") for number in range(5)),
            database.write_soon(_put_many, "soon"),
            return_exceptions=True,
        )
        assert {type(outcome) for outcome in outcomes} == {StorageFullError}
        with pytest.raises(StorageFullError):
            database.write_now(_put_many, "now")
        assert await database.read(count) == written
        assert await database.lookup(Lookup(settings.select()), {}) is not None
        disk.empty()
        await database.write(_put_many, "after")
        assert await database.read(count) == written + 2


async def _put_without_end(database: SqliteDatabase) -> None:
    for number in range(2000):
        await database.write(_put_many, str(number))


def _put_many(writer: Writer, key: str) -> None:
    put(writer, key, "x" * 3000)
    put(writer, f"{key} again", "x" * 3000)


async def test_opening_on_a_full_disk_is_said(tmp_path: Path) -> None:
    """A process that starts then fails in the registry's own words."""
    with small_disk(tmp_path / "disk", 2) as disk:
        path = disk.path / "dtr.db"
        with open_made(path):
            pass
        disk.fill()
        database = open_database(path)
        for attempt in (
            lambda: database.write(put, "k"),
            lambda: database.read(count),
            lambda: database.lookup(Lookup(settings.select()), {}),
        ):
            with pytest.raises(RegistryError):
                await attempt()
        with pytest.raises(RegistryError):
            database.write_now(put, "k")
        disk.empty()
        assert await database.write(put, "k") == "k"
        database.close()


async def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    """Whatever is asked of it."""
    path = tmp_path / "dtr.db"
    path.write_bytes(b"This is not a database at all, but long enough to be one." * 100)
    database = open_database(path)
    with pytest.raises(ContentDamagedError):
        await database.lookup(Lookup(settings.select()), {})
    with pytest.raises(ContentDamagedError):
        await database.read(count)
    with pytest.raises(ContentDamagedError):
        await database.write(put, "k")
    database.close()


async def test_an_acknowledged_unit_survives_sigkill(database: SqliteDatabase) -> None:
    """A process that is killed after its write returned has written."""
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from dtr.database import open_database
from tests.database.settings_table import put, put_and_fail
database = open_database(Path({str(database.path)!r}))
database.write_now(put, "acknowledged")
try:
    database.write_now(put_and_fail, "refused")
except Exception:
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await process.wait() == -9
    assert await database.read(keys) == ["acknowledged"]


def test_a_durable_commit_is_synced(database: SqliteDatabase) -> None:
    """FULL flushes the log at every commit; what may be lost with the power says so itself."""
    found: list[int] = []

    def look(writer: Writer) -> None:
        found.append(int(writer._connection.exec_driver_sql("PRAGMA synchronous").scalar_one()))

    database.write_now(look)
    asyncio.run(_each(database, look))
    assert found == [2, 2, 1, 2]
    with sqlite3.connect(database.path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


async def _each(database: SqliteDatabase, unit: object) -> None:
    assert callable(unit)
    await database.write(unit)
    await database.write_soon(unit)
    await database.write(unit)
