"""What tests of several rooms share: servers that are started once a session."""

import signal
from collections.abc import Iterator

import pytest
import structlog
from tests.support.postgresql import RunningPostgresql, temporary_database
from tests.support.seaweed import RunningS3

from dtr.database import open_postgresql
from dtr.testing.registry import make_registry

# A shell that starts the tests in the background has them ignore both, and so would the programs
# that they start and mean to end by these.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Undo what a command that ran in this process has made of the log."""
    yield
    structlog.reset_defaults()


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
