"""The `dtr` command line: parse, ask, call, show. No decisions."""

import sys

from dtr.cli.application import application


def main() -> None:
    """Run the command line; exit status 0 is success, 1 a failure, 2 a wrong call."""
    application(prog_name="dtr" if sys.argv[0].endswith("__main__.py") else None)
