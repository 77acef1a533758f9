"""What an agent says of its machine: disk, users, and who can run its Python."""

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.processes import requires_root
from tests.ucp.agent.fakes import make_node, wanted

from dtr.ucp.agent.condition import look
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.agent.users import closed_part, user_for
from dtr.ucp.authority import Authority
from dtr.ucp.model import EtcdWanted, NodeIdentity

NOW = datetime.now(UTC)
ETCD = EtcdWanted(
    name="n1",
    peer_url="https://127.0.0.1:2380",
    client_url="https://127.0.0.1:2379",
    initial_cluster="",
    is_new_cluster=True,
    cluster_token="c1",
)
USERS = {"database": "nosuchdatabase", "etcd": "nosuchetcd", "registry": "nobody"}


@pytest.fixture
def directory(tmp_path: Path) -> NodeDirectory:
    """Give a node's directory."""
    make_node(tmp_path / "node", Authority.create("c1", NOW), ())
    return NodeDirectory(tmp_path / "node")


def identity(users: dict[str, str]) -> NodeIdentity:
    """Say who runs what."""
    return NodeIdentity(
        node_id="a",
        name="n1",
        host_address="127.0.0.1",
        cluster_id="c1",
        controllers=(),
        users=users,
    )


def test_a_disk_that_is_almost_full_is_a_problem(
    directory: NodeDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the figures, before writes fail."""
    assert look(directory, identity({}), None, NOW.timestamp()).problems == ()
    usage = type(shutil.disk_usage("/"))(100 << 30, 96 << 30, 4 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    found = look(directory, identity({}), None, NOW.timestamp())
    assert (found.disk_total_bytes, found.disk_free_bytes) == (100 << 30, 4 << 30)
    assert "is almost full: 4.0 GiB of 100.0 GiB are free." in found.problems[0]


def test_users_that_are_missing_are_problems_only_where_they_are_needed(
    directory: NodeDirectory,
) -> None:
    """A worker without a balancer needs no haproxy."""
    requires_root("running things as other users")

    def problems(**values: Any) -> str:
        found = look(directory, identity(USERS), wanted(1, **values), NOW.timestamp())
        return "\n".join(found.problems)

    assert problems() == ""
    assert "There is no system user nosuchetcd for the etcd." in problems(etcd=ETCD)
    text = problems(services={"replica": {}})
    assert "There is no system user nosuchdatabase for the database. Install" in text
    assert "nosuchetcd" not in text
    assert user_for(identity(USERS), "etcd") == ""
    assert user_for(identity(USERS), "registry") == "nobody"


def test_a_python_that_the_database_cannot_run_is_a_problem(
    directory: NodeDirectory, open_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below a closed home directory, for example."""
    requires_root("running things as other users")
    users = {"database": "nobody", "registry": "nobody"}
    closed = open_path / "home"
    closed.mkdir(mode=0o700)
    program = closed / "python3"
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    specified = wanted(1, services={"replica": {}})
    found = look(directory, identity(users), specified, NOW.timestamp())
    sentence = f"The user nobody, who runs the database, cannot run {program}: {closed} is closed"
    assert sentence in found.problems[0]
    assert closed_part(program, "nobody", is_program=True) == closed
