"""The command line as a user calls it: a process, its exit status and what it prints."""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.server import DTR
from typer.testing import CliRunner

from dtr.cli.application import application

FAILED = 1
CALLED_WRONGLY = 2
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT")


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, parsed."""
        return json.loads(self.out)

    @property
    def message(self) -> str:
        """The one message of a command that failed, which is all that it may have said.

        A server may have logged something before; log lines begin with the time.
        """
        assert self.status == FAILED, self
        lines = [line for line in self.err.splitlines() if not LOG_LINE.match(line)]
        assert lines[0].startswith("Error: "), self.err
        assert "Traceback" not in self.err
        return "\n".join(lines).removeprefix("Error: ")


@dataclass(frozen=True)
class CommandLine:
    """`dtr` on one data directory, in a directory of its own and with nothing on its input."""

    place: Path
    data_dir: Path

    def run(
        self,
        *words: str | Path,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        names_data: bool = True,
    ) -> Ended:
        """Run a command to its end."""
        where: Sequence[str | Path] = ("--data-dir", self.data_dir) if names_data else ()
        done = subprocess.run(
            [*DTR, *words, *where],
            cwd=self.place,
            env=clean_environment(environment),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def good(self, *words: str | Path, stdin: str = "") -> Ended:
        """Run a command that must succeed."""
        ended = self.run(*words, stdin=stdin)
        assert ended.status == 0, ended
        return ended

    def fails(self, *words: str | Path, stdin: str = "") -> str:
        """Run a command that must fail; give its message."""
        return self.run(*words, stdin=stdin).message


class QuickCommandLine(CommandLine):
    """The same in the test's own process: for many calls of which each says little."""

    def run(
        self,
        *words: str | Path,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        names_data: bool = True,
    ) -> Ended:
        """Run a command to its end; a traceback fails the test."""
        where: Sequence[str | Path] = ("--data-dir", self.data_dir) if names_data else ()
        done = CliRunner().invoke(
            application,
            [str(word) for word in (*words, *where)],
            input=stdin,
            env=clean_environment(environment),
            prog_name="dtr",
        )
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Ended(done.exit_code, done.stdout, done.stderr)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give the environment without DTR's own variables, and a terminal wide enough for tables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DTR_")}
    return {**kept, "COLUMNS": "120", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", **(extra or {})}
