"""A data directory with a registry in it, copied for each test that changes it."""

import shutil
from pathlib import Path

import pytest
from tests.cli.command import CommandLine, QuickCommandLine

from dtr.server.bootstrap import bootstrap
from dtr.server.datadir import DataDirectory
from dtr.server.drivers import open_drivers
from dtr.server.settings import Settings


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data directory as the first start of a server leaves it."""
    path = tmp_path_factory.mktemp("template") / "data"
    with DataDirectory.open(path) as directory:
        drivers = open_drivers(Settings(), directory.path)
        bootstrap(Settings(), directory, drivers.database)
        drivers.database.close()
    return path


@pytest.fixture
def dtr(template: Path, tmp_path: Path) -> CommandLine:
    """Give the command line on a registry of the test's own."""
    shutil.copytree(template, tmp_path / "data")
    return CommandLine(tmp_path, tmp_path / "data")


@pytest.fixture
def quick(dtr: CommandLine) -> QuickCommandLine:
    """Give the same in this process."""
    return QuickCommandLine(dtr.place, dtr.data_dir)


@pytest.fixture
def password(tmp_path: Path) -> Path:
    """Give a file with a password."""
    path = tmp_path / "password"
    path.write_text("a long enough password\nand a line that does not matter\n")
    path.chmod(0o600)
    return path
