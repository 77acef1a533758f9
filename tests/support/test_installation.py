"""The installation that other users can run."""

import subprocess
from pathlib import Path

import pytest
from tests.support.installation import installed_command, installed_python
from tests.support.processes import requires, requires_root

pytestmark = pytest.mark.cluster


def test_another_user_can_run_it() -> None:
    """PostgreSQL's user runs Patroni and our own code, which it could not from a home."""
    requires_root("setpriv")
    requires("setpriv", "pg_lsclusters")
    as_postgres = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
    code = "import dtr.ucp.model, patroni; print(dtr.__version__)"
    commands: list[list[Path | str]] = [
        [installed_python(), "-c", code],
        [installed_command("patroni"), "--version"],
        [installed_command("dtr"), "--version"],
    ]
    for command in commands:
        done = subprocess.run(
            [*as_postgres, *command], check=True, capture_output=True, text=True, cwd="/"
        )
        assert done.stdout


def test_the_same_sources_give_the_same_installation() -> None:
    """Asked again it is there at once."""
    assert installed_python() == installed_python()
