"""Engines, schema, migrations, units of work. See `docs/adr/0001-units-of-work.md`."""

from pathlib import Path

from dtr.database.port import Database, Observe, stale_reads
from dtr.database.sqlite import SqliteDatabase
from dtr.database.units import Change, EngineName, Lookup, Reader, Row, Writer

__all__ = [
    "Change",
    "Database",
    "EngineName",
    "Lookup",
    "Observe",
    "Reader",
    "Row",
    "SqliteDatabase",
    "Writer",
    "open_database",
    "stale_reads",
]


def open_database(
    path: Path, *, wait_seconds: float = 60, observe: Observe | None = None
) -> SqliteDatabase:
    """Return the database in the file at `path`, which `migrate` has made."""
    return SqliteDatabase(path, wait_seconds=wait_seconds, observe=observe)
