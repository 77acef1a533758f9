"""The queue's metadata, on each engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dtr.database import Database, open_database, open_postgresql
from dtr.database.migrate import migrate


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Give an empty registry's metadata."""
    opened: Database
    if request.param == "postgresql":
        opened = open_postgresql(request.getfixturevalue("postgresql_url"), wait_seconds=20)
    else:
        opened = open_database(tmp_path / "dtr.db", wait_seconds=20)
    migrate(opened.engine)
    yield opened
    opened.close()
