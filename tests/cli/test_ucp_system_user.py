"""The registry's system user: created by an install, by a `useradd` that is only played."""

import os
from pathlib import Path

import pytest
from tests.cli.ucp_command import Ucp
from tests.support.processes import requires
from tests.ucp.plane import ControlPlane

from dtr.cli.ucp import checks, install, join, system_user
from dtr.cli.ucp.system_user import create_registry_user
from dtr.cluster.engines.programs import ProgramsMissingError
from dtr.ucp.client import UcpError

ADDRESS = "127.45.67.90"
ADDED = (
    "--system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin --user-group dtr\n"
)


class Machine:
    """What root sees of a machine that has no user `dtr` yet."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.told = place / "told"
        self.user = place / "user"
        self.group = place / "group"

    def has_useradd(self, script: str) -> None:
        """Let `useradd` do this, after it has noted what it was asked."""
        program = self.place / "useradd"
        program.write_text(f'#!/bin/sh\necho "$@" >> {self.told}\n{script}\n')
        program.chmod(0o755)

    def asked(self) -> str:
        """Return what `useradd` was asked."""
        return self.told.read_text() if self.told.exists() else ""


def find_none(_: Path) -> Path:
    """Find no PostgreSQL."""
    raise ProgramsMissingError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Give a machine on which `useradd` creates users."""
    place = tmp_path / "machine"
    place.mkdir()
    machine = Machine(place)
    machine.has_useradd(f"touch {machine.user}")
    monkeypatch.setenv("PATH", str(place), prepend=":")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(system_user, "exists", lambda _: machine.user.exists())
    monkeypatch.setattr(system_user, "_has_group", machine.group.exists)
    return machine


def test_a_user_that_is_missing_is_created(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, with a group of its own, no home and no shell; and one line says so."""
    create_registry_user({})
    create_registry_user({"database": "somebody"})
    assert machine.asked() == ADDED
    assert capsys.readouterr().err.count("Created the system user dtr") == 1


def test_a_group_that_is_there_becomes_the_users(machine: Machine) -> None:
    """`useradd` refuses to make one of a name that is taken."""
    machine.group.touch()
    create_registry_user({})
    assert machine.asked() == ADDED.replace("--user-group", "--gid dtr")


def test_a_user_that_another_install_created_meanwhile_is_as_good(machine: Machine) -> None:
    """Status 9 of `useradd`: the name is in use."""
    machine.has_useradd(f"touch {machine.user}; echo 'useradd: user exists' >&2; exit 9")
    create_registry_user({})
    assert machine.asked() == ADDED


def test_a_user_that_cannot_be_created_is_an_error(machine: Machine) -> None:
    """With the command to do it oneself, and with how to do without."""
    machine.has_useradd("echo 'useradd: cannot lock /etc/passwd; try again later.' >&2; exit 1")
    with pytest.raises(UcpError, match=r"cannot lock /etc/passwd.*\(useradd --system") as raised:
        create_registry_user({})
    assert "--no-create-user" in str(raised.value)


def test_nobody_is_created_for_a_registry_that_runs_as_somebody_else(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor by somebody who is not root."""
    create_registry_user({"registry": "somebody"})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    create_registry_user({})
    assert machine.asked() == ""


@pytest.mark.parametrize(
    ("more", "asked"), [((), ADDED), (("--no-create-user",), ""), (("--no-start",), "")]
)
def test_install_and_join_create_it_unless_they_are_told_not_to(
    machine: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, ...],
    asked: str,
) -> None:
    """One that starts nothing changes nothing outside its data directory."""
    requires("etcd")
    monkeypatch.setattr(install, "start_and_wait", lambda *_, **__: None)
    monkeypatch.setattr(join, "start_joined", lambda *_, **__: None)
    place = ("--host-address", ADDRESS, "--data-dir")
    done = Ucp().good("install", *place, tmp_path / "first", *more, "--json")
    assert done.json["address"] == f"{ADDRESS}:8443"
    assert machine.asked() == asked
    assert ("Created the system user dtr" in done.err) == bool(asked)
    machine.user.unlink(missing_ok=True)
    machine.told.unlink(missing_ok=True)
    (tmp_path / "plane").mkdir()
    with ControlPlane(tmp_path / "plane") as plane:
        told = (plane.address, "--token", str(plane.token), "--node-name", "node2")
        Ucp().good("join", *told, *place, tmp_path / "second", *more)
    assert machine.asked() == asked


def test_an_uninstall_leaves_the_user_and_says_so(machine: Machine, tmp_path: Path) -> None:
    """Files of replicas that live on elsewhere may belong to it."""
    requires("etcd")
    place = ("--data-dir", tmp_path / "ucp")
    Ucp().good("install", "--host-address", ADDRESS, *place, "--no-start")
    assert Ucp().good("uninstall", *place, "--dry-run", "--json").json["leaves_user"] is None
    machine.user.touch()
    assert "The system user dtr is left" in Ucp().good("uninstall", *place, "--dry-run").out
    assert "The system user dtr is left" in Ucp().good("uninstall", *place, "--yes").out


def test_a_machine_without_etcd_is_told_all_that_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one command, so that nobody meets the next gap an hour later."""
    monkeypatch.setattr(checks, "find_program", lambda _: None)
    monkeypatch.setattr(checks, "find_programs", find_none)
    words = ("install", "--host-address", ADDRESS, "--data-dir", tmp_path / "ucp", "--no-start")
    message = Ucp().fails(*words)
    assert "no etcd" in message
    assert "apt-get install etcd-server haproxy postgresql" in message
    assert not (tmp_path / "ucp").exists()


def test_a_node_may_do_without_what_replicas_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told once what to install before it hosts one."""
    requires("etcd")
    found = checks.find_program
    monkeypatch.setattr(
        checks, "find_program", lambda name: None if name == "haproxy" else found(name)
    )
    words = ("install", "--host-address", ADDRESS, "--data-dir", tmp_path / "ucp", "--no-start")
    assert "apt-get install haproxy" in Ucp().good(*words).err
