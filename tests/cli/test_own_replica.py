"""Commands on accounts and repositories, typed on a node: they find the replica's registry."""

import os
import pwd
import shutil
from pathlib import Path
from typing import cast

import pytest
from tests.cli.command import Ended, QuickCommandLine
from tests.support.processes import requires_root

from dtr.cli.context import wait_for
from dtr.database import Database
from dtr.server.settings import DatabaseSettings, Settings


@pytest.fixture
def node(quick: QuickCommandLine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a node's directory with the settings of two replicas, of which one is older."""
    root = quick.place / "ucp"
    for number, (name, directory) in enumerate((("a" * 12, "none"), ("b" * 12, quick.data_dir))):
        place = root / "replicas" / name / "registry"
        place.mkdir(parents=True)
        (place / "dtr.toml").write_text(f'[data]\ndirectory = "{directory}"\n')
        os.utime(place / "dtr.toml", (number, number))
    elsewhere = quick.place / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return root


def listed(quick: QuickCommandLine, node: Path, *words: str, **environment: str) -> Ended:
    """Give what a list of users says on that node."""
    given = {"UCP_DATA_DIR": str(node), **environment}
    return quick.run("user", "list", *words, environment=given, names_data=False)


def test_the_replica_on_the_node_is_found_and_named(quick: QuickCommandLine, node: Path) -> None:
    """On standard error, so that a list stays one."""
    ended = listed(quick, node, "--json")
    assert [entry["name"] for entry in ended.json] == ["admin"]
    path = node / "replicas" / ("b" * 12) / "registry" / "dtr.toml"
    assert ended.err == f"Using the replica on this node: --config {path}\n"


def test_whatever_is_named_is_taken_instead(quick: QuickCommandLine, node: Path) -> None:
    """An option, a variable, or a directory where the command is typed."""
    assert listed(quick, node, "--data-dir", str(quick.data_dir)).err == ""
    assert listed(quick, node, DTR_DATA__DIRECTORY=str(quick.data_dir)).err == ""
    Path("data").mkdir()
    assert "is empty" in listed(quick, node).message


@pytest.mark.parametrize("words", [("check",), ("show", "--changed")])
def test_settings_that_are_checked_or_shown_are_those_of_the_replica(
    quick: QuickCommandLine, node: Path, words: tuple[str, ...]
) -> None:
    """And not the defaults of a registry that is nowhere on the node."""
    ended = quick.run("config", *words, environment={"UCP_DATA_DIR": str(node)}, names_data=False)
    assert ended.status == 0, ended.message
    assert "Using the replica on this node" in ended.err
    assert str(quick.data_dir) in ended.out


def test_root_checks_the_settings_of_a_replica_that_a_system_user_serves(
    quick: QuickCommandLine, node: Path
) -> None:
    """Whoever is root on a node is not the user that the registry runs as."""
    requires_root("a directory of another user")
    os.chown(quick.data_dir, pwd.getpwnam("nobody").pw_uid, -1)
    ended = quick.run("config", "check", environment={"UCP_DATA_DIR": str(node)}, names_data=False)
    assert ended.status == 0, ended.message


def test_a_node_without_a_replica_is_named_as_such(quick: QuickCommandLine, node: Path) -> None:
    """A missing directory named data is not what is wrong there."""
    shutil.rmtree(node / "replicas")
    (node / "node.json").write_text("{}")
    environment = {"UCP_DATA_DIR": str(node)}
    for words in (("user", "list"), ("config", "check"), ("config", "show")):
        said = quick.run(*words, environment=environment, names_data=False).message
        assert "has no replica" in said
        assert "on a node with a replica" in said
    (node / "node.json").unlink()
    assert "has no replica" not in listed(quick, node).message


def test_a_command_waits_for_a_database_no_longer_than_the_settings_say() -> None:
    """And ten seconds at most: somebody sits before it."""
    waited: list[float] = []

    class Away:
        def wait_until_there(self, *, seconds: float) -> None:
            waited.append(seconds)

    for patience in (3, 60):
        settings = Settings(database=DatabaseSettings(failover_wait_seconds=patience))
        wait_for(cast("Database", Away()), settings)
    assert waited == [3, 10]
