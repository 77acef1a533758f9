"""A database of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dtr.database import SqliteDatabase, open_database
from dtr.database.migrate import migrate


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    """Give an empty registry's metadata."""
    database = open_database(tmp_path / "dtr.db", wait_seconds=20)
    migrate(database.engine)
    yield database
    database.close()
