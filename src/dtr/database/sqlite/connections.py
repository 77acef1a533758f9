"""What only SQLite knows: connections, pragmas, error codes."""

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from dtr.database.units import driver_of
from dtr.model.errors import (
    ContentDamagedError,
    RegistryError,
    StorageFullError,
    UnavailableError,
)

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


class MetadataFileError(UnavailableError):
    """The file with the metadata cannot be used; whoever knows its path says so beside."""


def is_transient(error: BaseException) -> bool:
    """Tell whether the same unit may succeed a moment later."""
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def translated(error: BaseException) -> Exception:
    """Return what a driver's error means to the registry; driver errors end here."""
    found = _MEANINGS.get(_code(error))
    if found is not None:
        kind, message = found
        return kind(message)
    assert isinstance(error, Exception)  # noqa: S101
    return error


_DAMAGED: Final = "the metadata file is damaged; restore it from a backup"
_BUSY: Final = "the metadata is busy; try again"
_MEANINGS: Final[dict[int, tuple[type[RegistryError], str]]] = {
    sqlite3.SQLITE_FULL: (StorageFullError, "the disk of the metadata is full"),
    sqlite3.SQLITE_CORRUPT: (ContentDamagedError, _DAMAGED),
    sqlite3.SQLITE_NOTADB: (ContentDamagedError, _DAMAGED),
    sqlite3.SQLITE_BUSY: (UnavailableError, _BUSY),
    sqlite3.SQLITE_LOCKED: (UnavailableError, _BUSY),
    sqlite3.SQLITE_CONSTRAINT: (
        UnavailableError,
        "what this refers to was changed at the same time; try again",
    ),
    sqlite3.SQLITE_READONLY: (
        MetadataFileError,
        "the metadata cannot be written: file or disk is read-only",
    ),
    sqlite3.SQLITE_CANTOPEN: (MetadataFileError, "the metadata cannot be opened"),
    sqlite3.SQLITE_IOERR: (
        MetadataFileError,
        "the metadata cannot be read or written: the disk failed",
    ),
}


def _code(error: BaseException) -> int:
    origin = error.orig if isinstance(error, DBAPIError) else error
    return int(getattr(origin, "sqlite_errorcode", 0)) & 0xFF
