"""What a unit of work is given.

A unit of work is a plain function whose first parameter is a `Reader` or a `Writer`. It cannot
await, so no transaction is ever held while bytes move; it is retried whole, so it must be
idempotent and must not touch anything but the transaction.
"""

import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import Connection, CursorResult, Executable, bindparam, insert, select, text

from dtr.database.schema import finished_units

Row = tuple[Any, ...]


class EngineName(StrEnum):
    """The database engines that there are drivers for."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


class Rendered(NamedTuple):
    """A statement in one engine's words, and the parameters that are always the same."""

    sql: str
    constants: dict[str, Any]


class Prepared:
    """A statement of a hot path, rendered once for each engine.

    Building, rendering and unwrapping in SQLAlchemy cost more than an engine's own work on one
    indexed row; a prepared statement is still written in SQLAlchemy Core and leaves that cost out.
    """

    def __init__(self, statement: Executable) -> None:
        self.statement = statement

    def rendered(self, engine: EngineName) -> Rendered:
        """Return the statement for `engine`, its parameters by name."""
        return self.sqlite if engine is EngineName.SQLITE else self.postgresql

    @cached_property
    def sqlite(self) -> Rendered:
        """The statement as `sqlite3` takes it: `:name`."""
        from sqlalchemy.dialects.sqlite import dialect  # noqa: PLC0415

        return self._render(dialect(paramstyle="named"))

    @cached_property
    def postgresql(self) -> Rendered:
        """The statement as psycopg takes it: `%(name)s`."""
        from sqlalchemy.dialects.postgresql import psycopg  # noqa: PLC0415

        return self._render(psycopg.dialect())  # type: ignore[no-untyped-call]

    @cached_property
    def numbered(self) -> tuple[Rendered, tuple[str, ...]]:
        """The statement as PostgreSQL's protocol takes it, `$1`, and the parameters' names."""
        from sqlalchemy.dialects.postgresql import psycopg  # noqa: PLC0415

        compiled = self._compile(psycopg.dialect(paramstyle="numeric_dollar"))  # type: ignore[no-untyped-call]
        return Rendered(str(compiled), _constants(compiled)), tuple(compiled.positiontup)

    def _render(self, dialect: Any) -> Rendered:
        compiled = self._compile(dialect)
        return Rendered(str(compiled), _constants(compiled))

    def _compile(self, dialect: Any) -> Any:
        return self.statement.compile(dialect=dialect)  # type: ignore[attr-defined]


class Lookup(Prepared):
    """A prepared point query.

    `is_immutable`: what it finds never changes, so that a standby's answer is as good as the
    primary's; only that it finds nothing has to be asked of the primary.
    """

    def __init__(self, statement: Executable, *, is_immutable: bool = False) -> None:
        super().__init__(statement)
        self.is_immutable = is_immutable


class Change(Prepared):
    """A prepared insert, update or delete."""


_FIND_UNIT = Lookup(select(finished_units.c.id).where(finished_units.c.id == bindparam("id")))
_NOTE_UNIT = Change(insert(finished_units))


class Reader:
    """One consistent snapshot of the metadata."""

    def __init__(self, connection: Connection, engine: EngineName) -> None:
        self._connection = connection
        self._engine = engine

    def execute(self, statement: Executable, rows: Any = None) -> CursorResult[Any]:
        """Run a SQLAlchemy Core statement, once or for each of `rows`."""
        return self._connection.execute(statement, rows)

    def scalar(self, statement: Executable) -> Any:
        """Return the first column of the first row, or None."""
        return self._connection.execute(statement).scalar()

    def first(self, lookup: Lookup, parameters: Mapping[str, Any]) -> Row | None:
        """Return the first row of a prepared query."""
        row: Row | None = self._run(lookup, parameters).fetchone()
        return row

    def _run(self, prepared: Prepared, parameters: Mapping[str, Any]) -> Any:
        sql, constants = prepared.rendered(self._engine)
        return driver_of(self._connection).execute(sql, {**constants, **parameters})


class Writer(Reader):
    """One durable transaction: all of it, or nothing.

    `unit_id` is the same in every attempt at one unit; empty where an attempt whose outcome is not
    known cannot happen. `may_have_run`: an earlier attempt was perhaps committed, and its answer
    lost.
    """

    def __init__(
        self,
        connection: Connection,
        engine: EngineName,
        *,
        unit_id: str = "",
        may_have_run: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(connection, engine)
        self.now = clock
        """Returns seconds since 1970 by the clock of `Database`; what a unit dates, it dates so."""
        self._unit_id = unit_id
        self.may_have_run = may_have_run

    def ran_before(self, *, is_noted: bool = True) -> bool:
        """Tell whether an earlier attempt at this very unit was committed; note that this one is.

        For units that are not idempotent by themselves: that count, that refuse what is done
        already, or that would undo what somebody else did between two attempts. A unit that finds
        nothing to do, and says so, does not have it noted: the next attempt would take it for done.
        """
        if not self._unit_id:
            return False
        if self.may_have_run and self._is_noted(self._unit_id):
            return True
        if is_noted:
            self._note(self._unit_id)
        return False

    def was_done(self, id_: str) -> bool:
        """Tell whether a unit with this id, its caller's own, was committed; note that this one is.

        For a caller that asks again after an error, with the same id, also on another day.
        """
        if self._is_noted(id_):
            return True
        self._note(id_)
        return False

    def _is_noted(self, id_: str) -> bool:
        return self.first(_FIND_UNIT, {"id": id_}) is not None

    def _note(self, id_: str) -> None:
        self.change(_NOTE_UNIT, {"id": id_, "finished_at": self.now()})

    def change(self, change: Change, parameters: Mapping[str, Any]) -> int:
        """Run a prepared change; return how many rows it changed."""
        count: int = self._run(change, parameters).rowcount
        return count

    def notify(self, channel: str) -> None:
        """Wake whoever listens to `channel` once this is committed (`Database.changes`)."""
        if self._engine is EngineName.POSTGRESQL:
            self._connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": channel})


def driver_of(connection: Connection) -> Any:
    """Return the driver's connection behind SQLAlchemy's: sqlite3's or psycopg's."""
    return connection.connection.driver_connection


def _constants(compiled: Any) -> dict[str, Any]:
    return {name: value for name, value in compiled.params.items() if value is not None}
