"""What a unit of work is given.

A unit of work is a plain function whose first parameter is a `Reader` or a `Writer`. It cannot
await, so no transaction is ever held while bytes move; it is retried whole, so it must be
idempotent and must not touch anything but the transaction.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, CursorResult, Executable

from dtr.database.sqlite import DIALECT, driver_of

Row = tuple[Any, ...]


class Prepared:
    """A statement of a hot path, rendered once.

    Building, rendering and unwrapping in SQLAlchemy cost more than SQLite's own work on one indexed
    row; a prepared statement is still written in SQLAlchemy Core and leaves that cost out.
    """

    def __init__(self, statement: Executable) -> None:
        compiled = statement.compile(dialect=DIALECT)  # type: ignore[attr-defined]
        self.statement = statement
        self.sql = str(compiled)
        self.constants = {
            name: value for name, value in compiled.params.items() if value is not None
        }


class Lookup(Prepared):
    """A prepared point query."""


class Change(Prepared):
    """A prepared insert, update or delete."""


class Reader:
    """One consistent snapshot of the metadata."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, statement: Executable, rows: Any = None) -> CursorResult[Any]:
        """Run a SQLAlchemy Core statement, once or for each of `rows`."""
        return self._connection.execute(statement, rows)

    def scalar(self, statement: Executable) -> Any:
        """Return the first column of the first row, or None."""
        return self._connection.execute(statement).scalar()

    def first(self, lookup: Lookup, parameters: Mapping[str, Any]) -> Row | None:
        """Return the first row of a prepared query."""
        cursor = driver_of(self._connection).execute(lookup.sql, {**lookup.constants, **parameters})
        row: Row | None = cursor.fetchone()
        return row


class Writer(Reader):
    """One durable transaction: all of it, or nothing."""

    def change(self, change: Change, parameters: Mapping[str, Any]) -> int:
        """Run a prepared change; return how many rows it changed."""
        cursor = driver_of(self._connection).execute(change.sql, {**change.constants, **parameters})
        return cursor.rowcount
