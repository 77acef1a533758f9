"""The metadata in PostgreSQL, wherever its primary is at the moment."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import psycopg
import structlog
from psycopg import IsolationLevel
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from dtr.database.port import Database, Observe, stale_reads
from dtr.database.postgresql import listening
from dtr.database.postgresql.attempts import Attempts
from dtr.database.postgresql.connections import (
    PRIMARY,
    STANDBY,
    Deadlines,
    Driver,
    Server,
    discard,
)
from dtr.database.postgresql.errors import (
    DRIVER_ERRORS,
    LostError,
    UnknownOutcomeError,
    is_lost,
    is_refusal,
    is_transient,
    plain_reason,
    reason,
    translated,
)
from dtr.database.postgresql.location import Location
from dtr.database.postgresql.lookups import Lookups
from dtr.database.units import EngineName, Lookup, Reader, Row, Writer, driver_of
from dtr.model.errors import InvalidError, UnavailableError
from dtr.model.members import MembersFile

T = TypeVar("T")
P = ParamSpec("P")

# What an earlier attempt left may be on one machine only. Writing to the log makes this commit wait
# for the standbys, and they get the log in order: what is found here is then as durable as it.
_WAIT_FOR_WHAT_IS_FOUND: Final = "SELECT pg_logical_emit_message(true, 'dtr', '')"
_STANDBY_SECONDS: Final = 0.5
_WAIT_SECONDS: Final = 1.0
_LOG = structlog.get_logger()


class PostgresqlDatabase(Database):
    """PostgreSQL at a libpq URL, whose several hosts are one primary and its standbys.

    Units run SERIALIZABLE: as if alone, or they are retried. A primary that is lost, read-only,
    shutting down or frozen is not an error but a wait: the unit is run again, whole, on whoever is
    primary then, for up to `wait_seconds`. Where there are several hosts, look-ups of what never
    changes go to a standby first, and all others when no primary answers within
    `stale_after_seconds`: `stale_reads` is then set. A URL without a host has those of `members`.
    """

    name = EngineName.POSTGRESQL

    def __init__(
        self,
        url: str,
        *,
        password: str | None = None,
        members: MembersFile | None = None,
        wait_seconds: float = 60,
        stale_after_seconds: float = 2.0,
        connections: int = 4,
        observe: Observe | None = None,
    ) -> None:
        self.location = Location.parse(url, password, members)
        self._wait_seconds = wait_seconds
        self._stale_after_seconds = stale_after_seconds
        self._observe = observe or (lambda _operation, _seconds: None)
        primary = Server(self.location, PRIMARY)
        self._primary = primary
        self.engine = primary.open_engine(2 * connections)
        self._lookups = Lookups(primary)
        self._standby: Lookups | None = None
        self._standby_engine: Engine | None = None
        if self.location.may_have_standbys:
            standby = Server(self.location, STANDBY)
            self._standby = Lookups(standby)
            self._standby_engine = standby.open_engine(connections)
        self._writers = ThreadPoolExecutor(connections, thread_name_prefix="database-writer")
        self._readers = ThreadPoolExecutor(connections, thread_name_prefix="database-reader")
        self._deadlines = Deadlines()

    async def lookup(self, lookup: Lookup, parameters: Mapping[str, Any]) -> Row | None:
        """Return the first row of a point query."""
        rows = await self.lookup_all(lookup, parameters)
        return rows[0] if rows else None

    async def lookup_all(self, lookup: Lookup, parameters: Mapping[str, Any]) -> list[Row]:
        """Return all rows of a short, indexed query."""
        try:
            if self._standby is None:
                return await self._lookups.ask(
                    lookup, parameters, within_seconds=self._wait_seconds
                )
            return await self._with_standby(self._standby, lookup, parameters)
        except DRIVER_ERRORS as error:
            raise translated(error) from error

    def read(
        self, unit: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        """Run `unit` on one snapshot of the primary, or else of a standby."""
        return self._observed("read", self._read(lambda reader: unit(reader, *args, **kwargs)))

    def write(
        self, unit: Callable[Concatenate[Writer, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        """Run `unit` in a transaction that is durable when this returns."""
        return self._observed("write", self._write(lambda writer: unit(writer, *args, **kwargs)))

    def write_soon(
        self, unit: Callable[Concatenate[Writer, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        """Do as `write`, for a standby that takes over must know what a client was told.

        READ COMMITTED: units that touch rows of their own meet in the pages of an index only, and
        are not held against each other for it.
        """
        work = self._write(
            lambda writer: unit(writer, *args, **kwargs), IsolationLevel.READ_COMMITTED
        )
        return self._observed("write", work)

    def read_now(
        self, unit: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `unit` on one snapshot of the primary, on the calling thread."""
        return self._insist(
            lambda attempts: self._read_once(
                self.engine, lambda reader: unit(reader, *args, **kwargs), attempts
            )
        )

    def write_now(
        self, unit: Callable[Concatenate[Writer, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `unit` durably on the calling thread."""
        return self._insist(
            lambda attempts: self._write_once(
                lambda writer: unit(writer, *args, **kwargs), attempts
            )
        )

    def changes(self, channel: str, *, poll_seconds: float) -> AsyncIterator[None]:
        """Yield at each notice, at each new connection, and at least every poll."""
        return listening.changes(self._primary, channel, poll_seconds=poll_seconds)

    def wait_until_there(
        self, *, seconds: float, is_enough: Callable[[Engine], bool] | None = None
    ) -> bool:
        """Wait for a primary, or for a standby that is enough.

        Raises:
            InvalidError: a server answered that it will not have us, and why.
            UnavailableError: neither answered in time.

        """
        started = time.monotonic()
        while True:
            try:
                self._primary.connect().close()
            except psycopg.Error as error:
                if is_refusal(error):
                    message = f"the database at {self.location} refuses: {plain_reason(error)}"
                    raise InvalidError(message) from error
                waited = time.monotonic() - started
                if waited >= self._stale_after_seconds and self._is_standby_enough(is_enough):
                    return False
                if waited > seconds:
                    message = (
                        f"no primary at {self.location} answers: {plain_reason(error)}. "
                        "Check that PostgreSQL runs there and accepts this machine and user"
                    )
                    raise UnavailableError(message) from error
                _LOG.warning("waiting for the database", reason=reason(error))
            else:
                return True
            time.sleep(_WAIT_SECONDS)

    def _is_standby_enough(self, is_enough: Callable[[Engine], bool] | None) -> bool:
        if is_enough is None or self._standby_engine is None:
            return False
        try:
            return is_enough(self._standby_engine)
        except (UnavailableError, *DRIVER_ERRORS) as error:
            _LOG.warning("no standby answers either", reason=reason(error))
            return False

    def close(self) -> None:
        """Finish what is under way and close all connections."""
        self._writers.shutdown()
        self._readers.shutdown()
        self._lookups.close()
        self.engine.dispose()
        if self._standby is not None and self._standby_engine is not None:
            self._standby.close()
            self._standby_engine.dispose()
        self._deadlines.close()

    async def _with_standby(
        self, standby: Lookups, lookup: Lookup, parameters: Mapping[str, Any]
    ) -> list[Row]:
        deadline = time.monotonic() + self._wait_seconds
        if lookup.is_immutable and standby.away_seconds < _STANDBY_SECONDS:
            with suppress(LostError):
                rows = await standby.ask(lookup, parameters, within_seconds=_STANDBY_SECONDS)
                if rows:
                    return rows
        while True:
            patience = self._stale_after_seconds - self._lookups.away_seconds
            if patience > 0:
                with suppress(LostError):
                    return await self._lookups.ask(lookup, parameters, within_seconds=patience)
            try:
                rows = await standby.ask(lookup, parameters, within_seconds=_STANDBY_SECONDS)
            except LostError:
                if time.monotonic() > deadline:
                    raise
            else:
                self._note_stale()
                return rows

    async def _read(self, body: Callable[[Reader], T]) -> T:
        try:
            result, is_stale = await self._persist(
                self._readers, lambda attempts: self._read_somewhere(body, attempts)
            )
        except DRIVER_ERRORS as error:
            raise translated(error) from error
        if is_stale:
            self._note_stale()
        return result

    def _read_somewhere(self, body: Callable[[Reader], T], attempts: Attempts) -> tuple[T, bool]:
        """Read on the primary; on a standby first when no primary has answered for a while."""
        standby = self._standby_engine
        away_seconds = max(attempts.seconds, self._lookups.away_seconds)
        if standby is not None and away_seconds >= self._stale_after_seconds:
            try:
                return self._read_once(standby, body, attempts), True
            except DRIVER_ERRORS as error:
                if not is_transient(error):
                    raise
        return self._read_once(self.engine, body, attempts), False

    def _note_stale(self) -> None:
        stale_reads.set(True)
        self._observe("stale read", 0.0)

    async def _write(
        self,
        body: Callable[[Writer], T],
        isolation: IsolationLevel = IsolationLevel.SERIALIZABLE,
    ) -> T:
        try:
            result = await self._persist(
                self._writers, lambda attempts: self._write_once(body, attempts, isolation)
            )
        except DRIVER_ERRORS as error:
            raise translated(error) from error
        self._lookups.note_there()
        return result

    async def _persist(self, pool: ThreadPoolExecutor, once: Callable[[Attempts], T]) -> T:
        """Attempt `once` on a thread until it succeeds; the pauses hold no thread."""
        attempts = Attempts(self._wait_seconds, may_move=self.location.may_have_standbys)
        loop = asyncio.get_running_loop()
        while True:
            try:
                running = loop.run_in_executor(pool, once, attempts)
            except RuntimeError:
                raise UnavailableError("this process is ending") from None
            try:
                return await running
            except DRIVER_ERRORS as error:
                pause = attempts.pause_after(error)
                if pause is None:
                    raise
            self._observe("retry", pause)
            await asyncio.sleep(pause)

    def _insist(self, once: Callable[[Attempts], T]) -> T:
        attempts = Attempts(self._wait_seconds, may_move=self.location.may_have_standbys)
        while True:
            try:
                return once(attempts)
            except DRIVER_ERRORS as error:
                pause = attempts.pause_after(error)
                if pause is None:
                    raise translated(error) from error
            time.sleep(pause)

    async def _observed(self, operation: str, work: Coroutine[Any, Any, T]) -> T:
        started = time.perf_counter()
        try:
            return await work
        finally:
            self._observe(operation, time.perf_counter() - started)

    def _read_once(self, engine: Engine, body: Callable[[Reader], T], attempts: Attempts) -> T:
        with self._begun(engine, IsolationLevel.REPEATABLE_READ, attempts) as connection:
            result = body(Reader(connection, self.name))
            driver_of(connection).rollback()
        return result

    def _write_once(
        self,
        body: Callable[[Writer], T],
        attempts: Attempts,
        isolation: IsolationLevel = IsolationLevel.SERIALIZABLE,
    ) -> T:
        may_have_run = attempts.is_outcome_unknown
        with self._begun(self.engine, isolation, attempts, is_read_only=False) as connection:
            driver: Driver = driver_of(connection)
            if may_have_run:
                driver.execute(_WAIT_FOR_WHAT_IS_FOUND)
            writer = Writer(
                connection,
                self.name,
                unit_id=attempts.unit_id,
                may_have_run=may_have_run,
                clock=self.clock,
            )
            result = body(writer)
            _commit(driver)
        return result

    @contextmanager
    def _begun(
        self,
        engine: Engine,
        isolation: IsolationLevel,
        attempts: Attempts,
        *,
        is_read_only: bool = True,
    ) -> Iterator[Connection]:
        """Give a connection in a transaction, which the body ends within the attempt's patience."""
        with engine.connect() as connection:
            driver: Driver = driver_of(connection)
            try:
                with self._deadlines.within(driver, attempts.begin()):
                    _begin(driver, isolation, is_read_only=is_read_only)
                    yield connection
            except BaseException as error:
                self._leave(connection, driver, error)
                raise
            connection.rollback()  # SQLAlchemy's own state; nothing is open any more

    def _leave(self, connection: Connection, driver: Driver, error: BaseException) -> None:
        """Undo what is open; where the connection is gone, so are probably its neighbours."""
        # SQLAlchemy, where it saw the loss itself, has let the driver's connection go already.
        is_gone = connection.invalidated or driver.closed
        is_gone = is_gone or (isinstance(error, DRIVER_ERRORS) and is_lost(error))
        if not is_gone:
            try:
                with self._deadlines.within(driver, 1.0):
                    connection.rollback()
                    driver.rollback()
            except (psycopg.Error, DBAPIError):
                is_gone = True
        if is_gone:
            discard(connection, driver)
            connection.engine.dispose()


def _begin(driver: Driver, isolation: IsolationLevel, *, is_read_only: bool) -> None:
    """Say how the next transaction shall be; psycopg begins it with the first statement."""
    driver.isolation_level = isolation
    driver.read_only = is_read_only
    driver.is_wait_cancelled = False


def _commit(driver: Driver) -> None:
    """Commit, and tell apart what is known to have failed from what is not known.

    Raises:
        UnknownOutcomeError: no answer, or success on fewer machines than were to be waited for.

    """
    try:
        driver.commit()
    except psycopg.Error as error:
        if is_lost(error):
            raise UnknownOutcomeError(plain_reason(error)) from error
        raise
    if driver.is_wait_cancelled:
        raise UnknownOutcomeError("the commit did not wait for the standbys")
