"""What a unit of work is given.

A unit of work is a plain function whose first parameter is a `Reader` or a `Writer`. It cannot
await, so no transaction is ever held while bytes move; it is retried whole, so it must be
idempotent and must not touch anything but the transaction.
"""

from typing import Any

from sqlalchemy import Connection, CursorResult, Executable


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


class Writer(Reader):
    """One durable transaction: all of it, or nothing."""

    @property
    def dialect(self) -> str:
        """The engine's name, for the few statements that only one understands."""
        return self._connection.dialect.name
