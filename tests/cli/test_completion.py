"""Shells complete what is typed, for both commands."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dtr.cli.application import application as dtr
from dtr.cli.ucp.application import application as ucp

BOTH = pytest.mark.parametrize(
    ("application", "name", "typed", "offered"),
    [(dtr, "dtr", "rem", "remove"), (ucp, "ucp", "emer", "emergency-repair")],
    ids=["dtr", "ucp"],
)


@BOTH
def test_a_shell_is_offered_commands(
    application: typer.Typer, name: str, typed: str, offered: str
) -> None:
    """What it asks for by its variables is answered with what fits."""
    words = {"COMP_WORDS": f"{name} {typed}", "COMP_CWORD": "1"}
    asked = {f"_{name.upper()}_COMPLETE": "complete_bash", **words}
    done = CliRunner().invoke(application, env=asked, prog_name=name)
    assert done.stdout.split() == [offered]


@BOTH
def test_completion_is_shown_and_installed(
    application: typer.Typer,
    name: str,
    typed: str,
    offered: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The script is the same, and goes into the home of whoever asks."""
    monkeypatch.setenv("HOME", str(tmp_path))
    # Whoever runs the tests may have no shell that could be detected: it is named instead.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    shown = CliRunner().invoke(application, ["--show-completion", "bash"], prog_name=name)
    assert f"_{name.upper()}_COMPLETE=complete_bash" in shown.stdout
    done = CliRunner().invoke(application, ["--install-completion", "bash"], prog_name=name)
    assert done.exit_code == 0, done.output
    scripts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(f"_{name.upper()}_COMPLETE=complete_bash" in script for script in scripts)
    assert offered.startswith(typed)


@BOTH
def test_the_version_is_shown(
    application: typer.Typer, name: str, typed: str, offered: str
) -> None:
    """With the command's own name; help lists the command that was offered above."""
    done = CliRunner().invoke(application, ["--version"], prog_name=name)
    assert done.stdout.startswith(f"{name} ")
    assert offered.startswith(typed)
    assert offered in CliRunner().invoke(application, ["-h"], prog_name=name).stdout
