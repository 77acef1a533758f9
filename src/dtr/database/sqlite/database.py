"""The metadata in one SQLite file."""

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine

from dtr.database.port import Database, Observe
from dtr.database.sqlite import connections as sqlite
from dtr.database.sqlite.committer import Committer
from dtr.database.units import EngineName, Lookup, Reader, Row, Writer, driver_of

T = TypeVar("T")
P = ParamSpec("P")

_SHORTEST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.05


class SqliteDatabase(Database):
    """The metadata in one SQLite file, shared by several processes.

    `lookup` answers point queries on the calling thread: readers of a WAL never wait for a writer.
    `read` and `write` run a unit of work on a thread. Writes of one process that wait together are
    committed together; between processes SQLite's lock decides, and a unit that finds it held is
    retried whole until `wait_seconds` have passed.

    Raises (all methods):
        UnavailableError: the database did not answer for `wait_seconds`.
        StorageFullError: its disk is full.

    """

    name = EngineName.SQLITE

    def __init__(
        self, path: Path, *, wait_seconds: float = 60, observe: Observe | None = None
    ) -> None:
        self.path = path
        self._wait_seconds = wait_seconds
        self._observe = observe or (lambda _operation, _seconds: None)
        self.engine = sqlite.open_engine(path)
        # The clock is set once a server is put together, after this.
        self._committer = Committer(self._connect, self._transact, self._now)
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="database-reader")
        self._hot: sqlite3.Connection | None = None

    def _now(self) -> float:
        return self.clock()

    async def lookup(self, lookup: Lookup, parameters: Mapping[str, Any]) -> Row | None:
        """Return the first row of a point query, now."""
        try:
            row: Row | None = (
                self._hot_connection()
                .execute(lookup.sqlite.sql, {**lookup.sqlite.constants, **parameters})
                .fetchone()
            )
        except sqlite3.Error as error:
            raise sqlite.translated(error) from error
        return row

    async def lookup_all(self, lookup: Lookup, parameters: Mapping[str, Any]) -> list[Row]:
        """Return all rows of a short, indexed query, now."""
        try:
            return (
                self._hot_connection()
                .execute(lookup.sqlite.sql, {**lookup.sqlite.constants, **parameters})
                .fetchall()
            )
        except sqlite3.Error as error:
            raise sqlite.translated(error) from error

    def read(
        self, unit: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        """Run `unit` on one snapshot."""
        return self._run(self._readers, "read", lambda: self.read_now(unit, *args, **kwargs))

    def write(
        self, unit: Callable[Concatenate[Writer, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        """Run `unit` in a transaction that is durable when this returns."""
        return self._commit(lambda writer: unit(writer, *args, **kwargs), is_durable=True)

    def write_soon(
        self, unit: Callable[Concatenate[Writer, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        """Run `unit` in a transaction that survives this process, but perhaps not a power cut.

        For what a client can do without: an upload that is under way. It is never out of order: a
        later durable transaction makes it durable too.
        """
        return self._commit(lambda writer: unit(writer, *args, **kwargs), is_durable=False)

    def read_now(
        self, unit: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `unit` on the calling thread; for the command line and for jobs."""
        return self._attempt(lambda: self._read_once(lambda reader: unit(reader, *args, **kwargs)))

    def write_now(
        self, unit: Callable[Concatenate[Writer, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `unit` durably on the calling thread; for the command line and for jobs."""
        with self._connect() as connection:
            return self._transact(
                lambda: unit(
                    Writer(connection, EngineName.SQLITE, clock=self.clock), *args, **kwargs
                ),
                connection,
                is_durable=True,
            )

    async def changes(self, channel: str, *, poll_seconds: float) -> AsyncIterator[None]:
        """Yield after every poll: a file tells nobody that it has changed."""
        del channel
        while True:
            await asyncio.sleep(poll_seconds)
            yield

    def wait_until_there(
        self, *, seconds: float, is_enough: Callable[[Engine], bool] | None = None
    ) -> bool:
        """Return at once: whoever can open the file is in."""
        del seconds, is_enough
        return True

    def close(self) -> None:
        """Finish what is queued and let go of the file."""
        self._committer.close()
        self._readers.shutdown()
        if self._hot is not None:
            self._hot.close()
            self._hot = None
        self.engine.dispose()

    async def _run(self, pool: ThreadPoolExecutor, operation: str, call: Callable[[], T]) -> T:
        started = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, call)
        finally:
            self._observe(operation, time.perf_counter() - started)

    async def _commit(self, unit: Callable[[Writer], T], *, is_durable: bool) -> T:
        started = time.perf_counter()
        try:
            result: T = await self._committer.submit(unit, is_durable=is_durable)
            return result
        finally:
            self._observe("write", time.perf_counter() - started)

    def _read_once(self, unit: Callable[[Reader], T]) -> T:
        with self.engine.connect() as connection:
            driver_of(connection).execute(sqlite.BEGIN_READING)
            try:
                return unit(Reader(connection, EngineName.SQLITE))
            finally:
                sqlite.leave_transaction(connection)

    def _connect(self) -> Connection:
        """Return a connection; another process may be recovering the file after a crash."""
        return self._attempt(self.engine.connect)

    def _transact(self, body: Callable[[], T], connection: Connection, *, is_durable: bool) -> T:
        return self._attempt(lambda: _write_once(body, connection, is_durable=is_durable))

    def _attempt(self, call: Callable[[], T]) -> T:
        deadline = time.monotonic() + self._wait_seconds
        pause = _SHORTEST_PAUSE_SECONDS
        while True:
            try:
                return call()
            except sqlite.DRIVER_ERRORS as error:
                if not sqlite.is_transient(error) or time.monotonic() + pause > deadline:
                    raise sqlite.translated(error) from error
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _hot_connection(self) -> sqlite3.Connection:
        if self._hot is None:
            self._hot = sqlite.open_hot_connection(self.path)
        return self._hot


def _write_once(body: Callable[[], T], connection: Connection, *, is_durable: bool) -> T:
    driver = driver_of(connection)
    driver.execute(sqlite.SYNCHRONOUS[is_durable])
    driver.execute(sqlite.BEGIN_WRITING)
    try:
        result = body()
        driver.execute("COMMIT")
    finally:
        sqlite.leave_transaction(connection)
    return result
