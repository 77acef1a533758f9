"""What systemd is told about the agent, and how the commands speak to it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.processes import requires

from dtr.cli.ucp import agents
from dtr.cli.ucp.agents import start_agent, stop_agent, unit_text
from dtr.ucp.agent.port import NodeDirectory


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the file that keeps what a systemctl was asked that is only played."""
    told = tmp_path / "told"
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr(agents, "_SYSTEMD", tmp_path)
    monkeypatch.setattr(agents, "UNIT", tmp_path / agents.UNIT.name)
    return told


def test_the_unit_runs_this_program_with_this_directory() -> None:
    """And nothing is left to be filled in."""
    text = unit_text(NodeDirectory(Path("/srv/ucp")))
    command = f'"{sys.executable}" "-m" "dtr.cli.ucp" "agent" "--data-dir" "/srv/ucp"'
    assert f"\nExecStart={command}\n" in text
    assert '\nRequiresMountsFor="/srv/ucp"\n' in text
    assert not re.search("@[A-Z_]+@", text)


def test_what_systemd_would_read_otherwise_is_escaped() -> None:
    """Specifiers, variables, quotes."""
    text = unit_text(NodeDirectory(Path('/srv/50% of "$HOME"')))
    assert r'"--data-dir" "/srv/50%% of \"$$HOME\""' in text
    assert r'RequiresMountsFor="/srv/50%% of \"$HOME\""' in text


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """It reads the very file that an install writes."""
    requires("systemd-analyze")
    unit = tmp_path / agents.UNIT.name
    unit.write_text(unit_text(NodeDirectory(tmp_path / "50% of it")))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_start_enables_the_unit_and_a_stop_removes_it(told: Path, tmp_path: Path) -> None:
    """The agent is there after the next boot, and after an uninstall it is not."""
    directory = NodeDirectory(tmp_path / "ucp")
    start_agent(directory)
    unit = tmp_path / "ucp-agent.service"
    assert unit.read_text() == unit_text(directory)
    assert told.read_text().splitlines() == ["daemon-reload", "enable --now ucp-agent.service"]
    assert stop_agent(directory)
    assert not unit.exists()
    assert told.read_text().splitlines()[2:] == ["disable --now ucp-agent.service", "daemon-reload"]
