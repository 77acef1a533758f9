"""What tests of several rooms share: servers that are started once a session."""

from collections.abc import Iterator

import pytest
from tests.support.postgresql import RunningPostgresql, temporary_database
from tests.support.seaweed import RunningS3

from dtr.database import open_postgresql
from dtr.testing.registry import make_registry


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


@pytest.fixture(scope="session")
def registry_template(postgresql: RunningPostgresql) -> str:
    """Give the name of a database with a new registry, to be copied: `create_database(this)`."""
    url = postgresql.create_database()
    database = open_postgresql(url)
    make_registry(database)
    database.close()
    return url.rpartition("/")[2]


@pytest.fixture
def registry_url(postgresql: RunningPostgresql, registry_template: str) -> Iterator[str]:
    """Give the URL of a database with a new registry that only this test knows."""
    with temporary_database(postgresql, registry_template) as url:
        yield url


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningS3]:
    """Give an S3 server, its credentials in the environment; for tests marked `s3`."""
    with (
        pytest.MonkeyPatch.context() as patch,
        RunningS3(tmp_path_factory.mktemp("s3")) as server,
    ):
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
