"""A database of its own for each test, on one engine or on each in turn."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.postgresql import RunningPostgresql, temporary_database

from dtr.database import Database, SqliteDatabase, open_database, open_postgresql
from dtr.database.migrate import migrate

WAIT_SECONDS = 20.0

OpenMetadata = Callable[[], Database]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    """Give an empty registry's metadata in SQLite."""
    database = open_database(tmp_path / "dtr.db", wait_seconds=WAIT_SECONDS)
    migrate(database.engine)
    yield database
    database.close()


@pytest.fixture(scope="session")
def schema_template(postgresql: RunningPostgresql) -> str:
    """Give the name of a PostgreSQL database that has the schema and nothing else."""
    url = postgresql.create_database()
    database = open_postgresql(url)
    migrate(database.engine)
    database.close()
    return url.rpartition("/")[2]


@pytest.fixture
def schema_url(postgresql: RunningPostgresql, schema_template: str) -> Iterator[str]:
    """Give the URL of an empty registry's metadata in PostgreSQL."""
    with temporary_database(postgresql, schema_template) as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def open_metadata(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenMetadata]:
    """Give a way to open the same empty metadata once more, on each engine in turn."""
    opened: list[Database] = []
    url = request.getfixturevalue("schema_url") if request.param == "postgresql" else ""

    def open_one() -> Database:
        if url:
            opened.append(open_postgresql(url, wait_seconds=WAIT_SECONDS))
        else:
            opened.append(open_database(tmp_path / "dtr.db", wait_seconds=WAIT_SECONDS))
            migrate(opened[-1].engine)
        return opened[-1]

    yield open_one
    for database in opened:
        database.close()


@pytest.fixture
def metadata(open_metadata: OpenMetadata) -> Database:
    """Give an empty registry's metadata, on each engine in turn."""
    return open_metadata()
