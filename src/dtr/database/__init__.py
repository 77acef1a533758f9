"""Engines, schema, migrations, units of work. See `docs/adr/0001-units-of-work.md`."""

from pathlib import Path

from dtr.database.port import Database, Observe, stale_reads
from dtr.database.sqlite import MetadataFileError, SqliteDatabase
from dtr.database.units import Change, EngineName, Lookup, Reader, Row, Writer
from dtr.model.members import MembersFile

__all__ = [
    "Change",
    "Database",
    "EngineName",
    "Lookup",
    "MetadataFileError",
    "Observe",
    "Reader",
    "Row",
    "SqliteDatabase",
    "Writer",
    "check_database_url",
    "open_database",
    "open_postgresql",
    "stale_reads",
]


def open_database(
    path: Path, *, wait_seconds: float = 60, observe: Observe | None = None
) -> SqliteDatabase:
    """Return the database in the file at `path`, which `migrate` has made."""
    return SqliteDatabase(path, wait_seconds=wait_seconds, observe=observe)


def check_database_url(
    url: str, *, password: str | None = None, members: MembersFile | None = None
) -> None:
    """Promise that `open_postgresql` would take this URL; nothing is connected.

    Raises:
        InvalidError: it is not one, or has no host and there are no members.

    """
    from dtr.database.postgresql.location import Location  # noqa: PLC0415 - 8 MB of memory

    Location.parse(url, password, members)


def open_postgresql(
    url: str,
    *,
    password: str | None = None,
    members: MembersFile | None = None,
    wait_seconds: float = 60,
    stale_after_seconds: float = 2,
    connections: int = 4,
    observe: Observe | None = None,
) -> Database:
    """Return the database at a libpq URL; see `PostgresqlDatabase` for what the numbers mean.

    Raises:
        InvalidError: it is not such a URL, or has no host and there are no members.

    """
    from dtr.database.postgresql import PostgresqlDatabase  # noqa: PLC0415 - 8 MB of memory

    return PostgresqlDatabase(
        url,
        password=password,
        members=members,
        wait_seconds=wait_seconds,
        stale_after_seconds=stale_after_seconds,
        connections=connections,
        observe=observe,
    )
