"""What only SQLite knows: connections, pragmas, error codes."""

import sqlite3
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from dtr.database.units import driver_of
from dtr.model.errors import ContentDamagedError, StorageFullError, UnavailableError

DRIVER_ERRORS = (DBAPIError, sqlite3.Error)

BEGIN_READING = "BEGIN"
BEGIN_WRITING = "BEGIN IMMEDIATE"
# Of a write-ahead log, FULL flushes it at every commit, NORMAL leaves that to a later one.
SYNCHRONOUS = {True: "PRAGMA synchronous=FULL", False: "PRAGMA synchronous=NORMAL"}


def open_engine(path: Path) -> Engine:
    """Return a pool of connections that leave transactions to us."""
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


def open_hot_connection(path: Path) -> sqlite3.Connection:
    """Return a connection for point queries of one thread."""
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    for pragma in ("query_only=ON", "busy_timeout=5000", "mmap_size=268435456"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def leave_transaction(connection: Connection) -> None:
    """Undo what is open; SQLite may have ended it itself, as on a full disk."""
    with suppress(sqlite3.Error):
        driver = driver_of(connection)
        if driver.in_transaction:
            driver.execute("ROLLBACK")
    if connection.in_transaction():
        connection.rollback()


def is_transient(error: BaseException) -> bool:
    """Tell whether the same unit may succeed a moment later."""
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def translated(error: BaseException) -> Exception:
    """Return what a driver's error means to the registry; driver errors end here."""
    match _code(error):
        case sqlite3.SQLITE_FULL:
            return StorageFullError("the disk of the metadata is full")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return ContentDamagedError("the metadata file is damaged; restore it from a backup")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return UnavailableError("the metadata is busy")
        case sqlite3.SQLITE_CONSTRAINT:
            return UnavailableError("what this refers to was changed by somebody else; try again")
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
            return UnavailableError("the metadata cannot be read or written")
        case _:
            assert isinstance(error, Exception)  # noqa: S101
            return error


def _code(error: BaseException) -> int:
    origin = error.orig if isinstance(error, DBAPIError) else error
    return int(getattr(origin, "sqlite_errorcode", 0)) & 0xFF
