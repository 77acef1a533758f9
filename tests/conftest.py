"""What tests of several rooms share: servers that are started once a session."""

import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest
import structlog
from tests.support.once_more import pytest_collection_modifyitems, pytest_terminal_summary
from tests.support.postgresql import RunningPostgresql, temporary_database
from tests.support.seaweed import RunningS3
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from dtr.database import open_postgresql
from dtr.testing.registry import make_registry

__all__ = ["pytest_collection_modifyitems", "pytest_terminal_summary"]

DEPLOYMENTS = {"on_postgresql", "forgetful", "on_s3"} | {
    *("node", "balanced", "balanced_s3", "on_replicated"),
}
"""What the HTTP suite runs against besides this process; see tests/http/conftest.py."""

UMASK = os.umask(0o022)
os.umask(UMASK)

# How long an example takes to be drawn says how busy the machine is, and nothing else.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")

# A shell that starts the tests in the background has them ignore both, and so would the programs
# that they start and mean to end by these.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


class ByServer(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a worker all of a module, or of the HTTP suite all that runs against one deployment.

    So each deployment of the suite is started by one worker only.
    """

    def _split_scope(self, nodeid: str) -> str:
        module, _, test = nodeid.partition("::")
        parameters = test.partition("[")[2].rstrip("]").split("-")
        return next((each for each in parameters if each in DEPLOYMENTS), module)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByServer | None:
    """Let `--dist loadfile` mean that."""
    return ByServer(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """Undo what the import of Patroni has made of the umask."""
    os.umask(UMASK)


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """Undo what a command that ran in this process has made of the log and of the umask."""
    yield
    os.umask(UMASK)
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
