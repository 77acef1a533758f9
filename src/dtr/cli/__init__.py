"""The command lines `dtr` and `ucp`: parse, ask, call, show. No decisions."""

import sys

from dtr.cli.application import application
from dtr.cli.ucp.application import application as ucp_application


def main() -> None:
    """Run `dtr`; exit status 0 is success, 1 a failure, 2 a wrong call."""
    application(prog_name="dtr" if sys.argv[0].endswith("__main__.py") else None)


def ucp() -> None:
    """Run `ucp`, with the same exit statuses."""
    ucp_application(prog_name="ucp" if sys.argv[0].endswith("__main__.py") else None)
