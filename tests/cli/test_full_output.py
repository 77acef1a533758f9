"""Output that cannot be written: one sentence and exit status 1, whatever the command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.command import FAILED, CommandLine, clean_environment
from tests.support.server import DTR

FULL = Path("/dev/full")
SENTENCE = "Error: The output cannot be written: No space left on device.\n"

pytestmark = [
    pytest.mark.server,  # as slow: it starts every command
    pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full"),
]

HELPS = """\
import importlib, json, os, sys
import typer.main

def words_of(command, words):
    yield words
    for name in command.commands if hasattr(command, "commands") else ():
        yield from words_of(command.commands[name], [*words, name])

def ended(application, main, words):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        sys.argv = [*words, "--help"]
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        os.dup2(writer, 2)
        main()
        os._exit(99)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text

module = importlib.import_module(sys.argv[1])
application = module.application
name = sys.argv[2]
every = list(words_of(typer.main.get_command(application), [name]))
print(json.dumps([[words, *ended(application, module.main, words)] for words in every]))
"""


@pytest.mark.parametrize(
    ("module", "name", "at_least"),
    [("dtr.cli.application", "dtr", 40), ("dtr.cli.ucp.application", "ucp", 15)],
)
def test_no_command_leaves_a_traceback_where_its_output_cannot_go(
    module: str, name: str, at_least: int
) -> None:
    """Each command of both command lines, as it describes itself."""
    done = subprocess.run(
        [sys.executable, "-c", HELPS, module, name],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert len(found) >= at_least
    assert [each for each in found if each[1:] != [FAILED, SENTENCE]] == []


@pytest.mark.parametrize(
    "words",
    [
        ["version"],
        ["config", "sample"],
        ["config", "show", "--json"],
        ["repo", "list", "--json"],
        ["user", "list"],
        ["fsck"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_what_a_command_prints_on_a_full_disk_is_missed(
    dtr: CommandLine, words: list[str], unbuffered: str
) -> None:
    """Plain text, JSON and tables; written at once, or at the end."""
    where = [] if words[0] in {"version", "config"} else ["--data-dir", str(dtr.data_dir)]
    with FULL.open("wb") as full:
        done = subprocess.run(
            [*DTR, *words, *where],
            cwd=dtr.place,
            env=clean_environment({"PYTHONUNBUFFERED": unbuffered}),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (FAILED, SENTENCE)


def test_a_failure_that_cannot_be_said_is_one_by_its_exit_status(dtr: CommandLine) -> None:
    """Where standard error is full, too."""
    with FULL.open("wb") as full:
        done = subprocess.run(
            [*DTR, "repo", "list", "--data-dir", "/nowhere"],
            env=clean_environment(),
            cwd=dtr.place,
            stdout=full,
            stderr=full,
            check=False,
        )
    assert done.returncode == FAILED


def test_a_reader_that_has_enough_is_no_failure(dtr: CommandLine) -> None:
    """Such as `head`: nothing is said about it."""
    done = subprocess.run(
        f"{DTR[0]} -m dtr config sample | head -n 1",
        shell=True,
        env=clean_environment(),
        cwd=dtr.place,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("# Name this file with")
