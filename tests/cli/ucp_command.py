"""`ucp` as a user calls it, in the test's own process."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.cli.command import Ended
from tests.ucp.plane import ADMINISTRATOR, PASSWORD, ControlPlane
from typer.testing import CliRunner

from dtr.cli.ucp.application import application


@dataclass
class Ucp:
    """The command line of somebody who knows a control plane, or nothing yet."""

    environment: dict[str, str] = field(default_factory=dict)

    def run(
        self, *words: str | Path, stdin: str = "", environment: Mapping[str, str] | None = None
    ) -> Ended:
        """Run a command to its end; a traceback fails the test."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("UCP_")}
        removed = {name: None for name in os.environ if name.startswith("UCP_")}
        done = CliRunner().invoke(
            application,
            [str(word) for word in words],
            input=stdin,
            env={
                **kept,
                **removed,
                "COLUMNS": "200",
                "NO_COLOR": "1",
                **self.environment,
                **(environment or {}),
            },
            prog_name="ucp",
        )
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Ended(done.exit_code, done.stdout, done.stderr)

    def good(self, *words: str | Path, stdin: str = "") -> Ended:
        """Run a command that must succeed."""
        ended = self.run(*words, stdin=stdin)
        assert ended.status == 0, ended
        return ended

    def fails(
        self, *words: str | Path, stdin: str = "", environment: Mapping[str, str] | None = None
    ) -> str:
        """Run a command that must fail; give its message."""
        return self.run(*words, stdin=stdin, environment=environment).message


def administrator_of(plane: ControlPlane, place: Path) -> Ucp:
    """Give the command line of an administrator of a control plane, on no node of it."""
    ca = place / "ca.pem"
    ca.write_text(plane.ca)
    return Ucp(
        {
            "UCP_URL": plane.address,
            "UCP_USERNAME": ADMINISTRATOR,
            "UCP_PASSWORD": PASSWORD,
            "UCP_CA": str(ca),
            "UCP_DATA_DIR": str(place / "no node"),
        }
    )
