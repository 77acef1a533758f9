"""Open a database and run units of work on it."""

import asyncio
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, Executable, create_engine, event, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from dtr.database.committer import Committer
from dtr.database.units import Reader, Writer
from dtr.model.errors import ContentDamagedError, StorageFullError, UnavailableError

T = TypeVar("T")
P = ParamSpec("P")
Row = tuple[Any, ...]

_DIALECT = sqlite.dialect(paramstyle="named")


_BEGIN_READING = text("BEGIN")
_BEGIN_WRITING = text("BEGIN IMMEDIATE")
_COMMIT = text("COMMIT")
# Of a write-ahead log, FULL flushes it at every commit, NORMAL leaves that to a later one.
_SYNCHRONOUS = {True: text("PRAGMA synchronous=FULL"), False: text("PRAGMA synchronous=NORMAL")}


class Lookup:
    """A statement of the hot path, rendered once.

    Rendering and result processing of SQLAlchemy cost more than SQLite's own work on one indexed
    row; a `Lookup` keeps the statement in SQLAlchemy Core and leaves that cost out.
    """

    def __init__(self, statement: Executable) -> None:
        compiled = statement.compile(dialect=_DIALECT)  # type: ignore[attr-defined]
        self.statement = statement
        self.sql = str(compiled)
        self.constants = {
            name: value for name, value in compiled.params.items() if value is not None
        }


class Database:
    """The metadata in one SQLite file, shared by several processes.

    `lookup` answers point queries on the calling thread: readers of a WAL never wait for a writer.
    `read` and `write` run a unit of work on a thread. Writes of one process that wait together are
    committed together; between processes SQLite's lock decides, and a unit that finds it held is
    retried whole until `wait_seconds` have passed.

    Raises (all methods):
        UnavailableError: the database did not answer for `wait_seconds`.
        StorageFullError: its disk is full.

    """

    def __init__(
        self,
        path: Path,
        *,
        wait_seconds: float = 60,
        observe: Callable[[str, float], None] | None = None,
    ) -> None:
        self.path = path
        self._wait_seconds = wait_seconds
        self._observe = observe or (lambda _operation, _seconds: None)
        self.engine = _sqlite_engine(path)
        self._committer = Committer(self._transact)
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="database-reader")
        self._hot: sqlite3.Connection | None = None

    def lookup(self, lookup: Lookup, parameters: Mapping[str, Any]) -> Row | None:
        """Return the first row of a point query, now."""
        try:
            row: Row | None = (
                self._hot_connection()
                .execute(lookup.sql, {**lookup.constants, **parameters})
                .fetchone()
            )
        except sqlite3.Error as error:
            raise _translated(error) from error
        return row

    def lookup_all(self, lookup: Lookup, parameters: Mapping[str, Any]) -> list[Row]:
        """Return all rows of a short, indexed query, now."""
        try:
            return (
                self._hot_connection()
                .execute(lookup.sql, {**lookup.constants, **parameters})
                .fetchall()
            )
        except sqlite3.Error as error:
            raise _translated(error) from error

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
        return self._transact(
            lambda connection: unit(Writer(connection), *args, **kwargs), is_durable=True
        )

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
            # Shielded: a unit that has been queued will run, whether or not its caller waits.
            future = self._committer.submit(unit, is_durable=is_durable)
            result: T = await asyncio.shield(asyncio.wrap_future(future))
            return result
        finally:
            self._observe("write", time.perf_counter() - started)

    def _transact(self, body: Callable[[Connection], T], *, is_durable: bool) -> T:
        return self._attempt(lambda: self._write_once(body, is_durable=is_durable))

    def _read_once(self, unit: Callable[[Reader], T]) -> T:
        with self.engine.connect() as connection:
            connection.execute(_BEGIN_READING)
            try:
                return unit(Reader(connection))
            finally:
                connection.rollback()
                _end(connection)

    def _write_once(self, body: Callable[[Connection], T], *, is_durable: bool) -> T:
        with self.engine.connect() as connection:
            connection.execute(_SYNCHRONOUS[is_durable])
            connection.execute(_BEGIN_WRITING)
            try:
                result = body(connection)
                connection.execute(_COMMIT)
            except BaseException:
                _end(connection)
                raise
            return result

    def _attempt(self, call: Callable[[], T]) -> T:
        deadline = time.monotonic() + self._wait_seconds
        delay = 0.001
        while True:
            try:
                return call()
            except (OperationalError, IntegrityError) as error:
                if not _is_transient(error) or time.monotonic() + delay > deadline:
                    raise _translated(error) from error
            except DBAPIError as error:
                raise _translated(error) from error
            time.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311
            delay = min(delay * 2, 0.05)

    def _hot_connection(self) -> sqlite3.Connection:
        if self._hot is None:
            self._hot = sqlite3.connect(self.path, isolation_level=None, cached_statements=256)
            self._hot.execute("PRAGMA query_only=ON")
            self._hot.execute("PRAGMA busy_timeout=5000")
            self._hot.execute("PRAGMA mmap_size=268435456")
        return self._hot


def open_database(
    path: Path, *, wait_seconds: float = 60, observe: Callable[[str, float], None] | None = None
) -> Database:
    """Return the database in the file at `path`, which `migrate` has made."""
    return Database(path, wait_seconds=wait_seconds, observe=observe)


def _sqlite_engine(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": 0.25, "isolation_level": None, "check_same_thread": False},
        pool_size=8,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _end(connection: Connection) -> None:
    """Leave the driver's transaction; SQLite may have ended it itself, as on a full disk."""
    with suppress(sqlite3.Error):
        driver = connection.connection.driver_connection
        if driver is not None and driver.in_transaction:
            driver.execute("ROLLBACK")


def _code(error: BaseException) -> int:
    origin = error.orig if isinstance(error, DBAPIError) else error
    return int(getattr(origin, "sqlite_errorcode", 0)) & 0xFF


def _is_transient(error: DBAPIError) -> bool:
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _translated(error: BaseException) -> Exception:
    """Return what a driver's error means to the registry; driver errors end here."""
    match _code(error):
        case sqlite3.SQLITE_FULL:
            return StorageFullError("the disk of the metadata is full")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return ContentDamagedError("the metadata file is damaged")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return UnavailableError("the metadata is busy")
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
            return UnavailableError("the metadata cannot be read or written")
        case _:
            assert isinstance(error, Exception)  # noqa: S101
            return error
