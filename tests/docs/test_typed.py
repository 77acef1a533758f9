"""What the pages say to type is typed: in their order, on a registry as the page supposes it."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.command import QuickCommandLine
from tests.docs.pages import shell_blocks
from tests.support.processes import ROOT

from dtr.database import open_database
from dtr.database.migrate import migrate
from dtr.server.datadir import DataDirectory

SECRET = "a password of many words"
PAGES = ("docs/accounts.md", "docs/jobs.md", "docs/operating.md")
NEEDS_A_SERVER = {
    "dtr serve": "serves until it is ended: tests/cli/test_serve.py",
    "dtr jobs run": "a server runs the job: tests/jobs/test_server.py",
    "dtr jobs cancel": "a job that waits or runs",
    "dtr jobs logs 17 --follow": "ends with the job",
}
EXAMPLES = {
    "dtr jobs show 17": "There is no job 17",
    "dtr token revoke alice 3": "The user alice has no token 3",
    "dtr upload rm 0ea37341-358f-4706-b6e3-fc7551381cfc": "There is no upload 0ea37341",
    "dtr fsck --data-dir data --verify": "does not exist",
}
"""Ids and places that stand for others: what is said where they are not."""


def blocks() -> Iterator[tuple[str, list[str]]]:
    """Give the commands of each shell block, with what names it."""
    for page in PAGES:
        for number, lines in enumerate(shell_blocks(ROOT / page)):
            typed = [line for line in lines if line.startswith("dtr ")]
            if typed:
                yield f"{page}, block {number}", typed


@pytest.fixture
def typist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> QuickCommandLine:
    """Give a registry with an administrator, in whose directory a password waits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "password.txt").write_text(f"{SECRET}\n")
    with DataDirectory.open(tmp_path / "registry") as directory:
        database = open_database(directory.database)
        migrate(database.engine)
        database.close()
        quick = QuickCommandLine(tmp_path, directory.path)
    quick.good("user", "add", "admin", "--admin", "--password-file", "password.txt")
    return quick


@pytest.mark.parametrize(("place", "typed"), list(blocks()))
def test_what_a_page_says_to_type_works(
    place: str, typed: list[str], typist: QuickCommandLine
) -> None:
    """Each command succeeds, or says of an example that there is none of this name."""
    suppose(typist, typed)
    for line in typed:
        if any(line.startswith(each) for each in NEEDS_A_SERVER):
            continue
        words = shlex.split(line, comments=True)[1:]
        ended = typist.run(*words, stdin=f"{SECRET}\n", names_data="--data-dir" not in words)
        if line in EXAMPLES:
            assert EXAMPLES[line] in ended.message, (place, line)
            continue
        assert ended.status == 0, (place, line, ended)
        if "--json" in words:
            json.loads(ended.out)


def suppose(typist: QuickCommandLine, typed: list[str]) -> None:
    """Make what the commands of a block take for granted: they, or blocks before, name it."""
    made = {tuple(line.split()[1:4]) for line in typed}
    for name in ("alice", "bob", "ci"):
        if ("user", "add", name) not in made:
            typist.good("user", "add", name, "--password-file", "password.txt")
    owns = any(line.startswith("dtr repo") for line in typed)
    if owns and ("repo", "create", "alice/tools") not in made:
        typist.good("repo", "create", "alice/tools")


def test_examples_and_exceptions_are_on_a_page() -> None:
    """What is no longer said is no longer excused."""
    said = "\n".join("\n".join(typed) for _, typed in blocks())
    assert [each for each in (*NEEDS_A_SERVER, *EXAMPLES) if each not in said] == []
