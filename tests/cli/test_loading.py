"""A command is imported when it is called: names, versions and completions load none."""

import subprocess
import sys

import pytest
import typer
from typer.main import get_command

from dtr.cli.application import application as dtr
from dtr.cli.ucp.application import application as ucp

# What takes tenths of seconds to import. Typer has Pydantic read the arguments of a command.
HEAVY = (
    "dtr.server",
    "dtr.ucp",
    "sqlalchemy",
    "granian",
    "structlog",
    "cryptography",
    "prometheus_client",
    "aiohttp",
    "rich",
    "asyncio",
)
CALLS = """
import sys
sys.argv = {words!r}
from dtr.cli{room}.application import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
loaded = [name for name in {heavy!r} if name in sys.modules]
assert not loaded, loaded
"""


@pytest.mark.parametrize("words", [["--version"], ["version"], ["version", "--json"]])
@pytest.mark.parametrize("name", ["dtr", "ucp"])
def test_the_version_is_shown_without_loading_a_command(name: str, words: list[str]) -> None:
    """Imports are counted rather than time, which depends on the machine."""
    room = ".ucp" if name == "ucp" else ""
    heavy = (*HEAVY, "pydantic") if words == ["--version"] else HEAVY
    program = CALLS.format(words=[name, *words], room=room, heavy=heavy)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "0.1.0" in done.stdout


@pytest.mark.parametrize("application", [dtr, ucp], ids=["dtr", "ucp"])
def test_every_command_that_is_named_is_there(application: typer.Typer) -> None:
    """Its place can be imported, and it has a summary."""
    commands = get_command(application).commands  # type: ignore[attr-defined]
    assert len(commands) == len(list(commands)) > 10
    for name, command in commands.items():
        assert command.name == name
        assert command.get_short_help_str(), name


def test_a_command_loads_none_of_the_others() -> None:
    """`dtr config` needs neither the cluster's commands nor the import's."""
    program = CALLS.format(
        words=["dtr", "config", "-h"], room="", heavy=("dtr.cli.cluster", "dtr.transfer")
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
