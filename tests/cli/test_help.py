"""What the commands say about themselves is whole, also where a terminal has 80 columns."""

import os
import subprocess
from itertools import pairwise

import pytest
from tests.support.server import DTR, UCP

NARROW = {**os.environ, "COLUMNS": "80"}


def help_of(*words: str) -> str:
    """Give what a command prints about itself."""
    command = [*words, "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=NARROW)
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    return done.stdout


def joined(text: str) -> str:
    """Give a text as one line."""
    return " ".join(text.split())


def test_names_of_options_and_variables_are_whole() -> None:
    """The longest of them, too."""
    said = joined(help_of(*DTR, "join"))
    assert "--existing-replica-id ID " in said
    assert "[env var: DTR_INSTALL_REPLICA_ID]" in said


def test_paragraphs_flow() -> None:
    """They break where the terminal ends, not where the source does."""
    lines = help_of(*DTR, "remove").split("\n\n")[2].splitlines()
    for line, after in pairwise(lines):
        assert len(line) + 1 + len(after.split()[0]) > 78, line


@pytest.mark.parametrize(
    ("words", "summary"),
    [
        ([*DTR], "Delete the last replica, and with it all content of the registry."),
        ([*DTR, "load-balancer"], "joins and removals update its pool automatically."),
        ([*UCP], "Make this manager the only one, after the majority was lost for good."),
    ],
    ids=["dtr", "a group", "ucp"],
)
def test_a_list_of_commands_has_their_whole_summaries(words: list[str], summary: str) -> None:
    """Nothing ends in three dots."""
    said = joined(help_of(*words))
    assert summary in said
    assert "..." not in said.partition("Commands:")[2]
