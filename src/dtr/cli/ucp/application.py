"""All commands of `ucp` together."""

import sys
from typing import Annotated

import typer

from dtr import __version__
from dtr.cli.ucp import administration, install, join, nodes, processes, repair, uninstall

application = typer.Typer(
    help="The control plane: machines, who they are, and what runs on them.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
application.command("install")(install.install)
application.command("join")(join.join)
application.add_typer(nodes.commands, name="node", help="The machines that UCP manages.")
application.add_typer(
    administration.tokens, name="token", help="The join token: what lets machines join."
)
application.command("status")(administration.status)
application.command("passwd")(administration.passwd)
application.command("ca")(administration.ca)
application.command("backup")(administration.backup)
application.command("restore")(install.restore)
application.command("emergency-repair")(repair.emergency_repair)
application.command("uninstall")(uninstall.uninstall)
application.command("agent")(processes.agent)
application.command("controller")(processes.controller)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"ucp {__version__}")
        raise typer.Exit


@application.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Make machines one control plane, and look after it.

    Begin with 'ucp install' on one machine; it prints what to type on the others.
    """


def main() -> None:
    """Run `ucp`; exit status 0 is success, 1 a failure, 2 a wrong call."""
    application(prog_name="ucp" if sys.argv[0].endswith("__main__.py") else None)
