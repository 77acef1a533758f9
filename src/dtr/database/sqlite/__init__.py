"""SQLite: the metadata of an embedded registry, in one file."""

from dtr.database.sqlite.connections import MetadataFileError
from dtr.database.sqlite.database import SqliteDatabase

__all__ = ["MetadataFileError", "SqliteDatabase"]
