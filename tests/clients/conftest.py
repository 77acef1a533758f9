"""What every client's tests share: one registry for the session, a home and a name per test."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from tests.support.registry import Registry, Repository, registry_under_test

LOG_LINES = 25
LOG_COLUMNS = 200
REGISTRY = pytest.StashKey[Registry]()


@pytest.fixture(scope="session")
def registry(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Registry]:
    """Give the registry under test; TEST_REGISTRY aims at another one."""
    with registry_under_test(tmp_path_factory.mktemp("registry")) as registry:
        pytestconfig.stash[REGISTRY] = registry
        yield registry


@pytest.fixture
def repository(registry: Registry, request: pytest.FixtureRequest) -> Repository:
    """Give a repository that only this test knows; the first push creates it."""
    module = request.path.stem.removeprefix("test_").replace("_", "-")
    return registry.new_repository(module)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Give an empty home directory to a client."""
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the server's log with a failed test."""
    report = yield
    registry = item.config.stash.get(REGISTRY, None)
    if report.failed and registry is not None and registry.log is not None:
        lines = registry.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        end = "\n".join(line[:LOG_COLUMNS] for line in lines)
        report.sections.append(("end of the registry's log", end))
    return report
