"""What tests of several rooms share: servers that are started once a session."""

from collections.abc import Iterator

import pytest
from tests.support.postgresql import RunningPostgresql, temporary_database


@pytest.fixture(scope="session")
def postgresql() -> Iterator[RunningPostgresql]:
    """Give a PostgreSQL server that flushes nothing; for tests marked `postgresql`."""
    with RunningPostgresql() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql: RunningPostgresql) -> Iterator[str]:
    """Give the URL of an empty database that only this test knows."""
    with temporary_database(postgresql) as url:
        yield url
