"""All commands of `dtr` together."""

import sys
from typing import Annotated

import typer

from dtr import __version__
from dtr.cli import (
    config,
    copy,
    importing,
    jobs,
    maintenance,
    migrate,
    repositories,
    serve,
    storage,
    tokens,
    users,
)
from dtr.cli.cluster import balancers, change, install, status

application = typer.Typer(
    help="A trusted container registry.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
application.command("serve")(serve.serve)
application.command("install")(install.install)
application.command("join")(install.join)
application.command("remove")(change.remove)
application.command("destroy")(install.destroy)
application.command("reconfigure")(change.reconfigure)
application.command("emergency-repair")(change.emergency_repair)
application.command("status")(status.status)
application.command("cancel")(change.cancel)
application.add_typer(
    balancers.commands, name="load-balancer", help="What stands before the replicas."
)
application.add_typer(users.commands, name="user", help="Who may log in.")
application.add_typer(repositories.commands, name="repo", help="Repositories and who may use them.")
application.add_typer(tokens.commands, name="token", help="Access tokens: passwords for programs.")
application.command("migrate")(migrate.migrate_metadata)
application.command("copy-metadata")(copy.copy_metadata)
application.command("import")(importing.import_registry)
application.command("gc")(maintenance.gc)
application.command("fsck")(maintenance.fsck)
application.add_typer(jobs.commands, name="jobs", help="Background jobs: what runs, ran and will.")
application.add_typer(storage.commands, name="storage", help="Where blobs are.")
application.add_typer(config.commands, name="config", help="Settings: check and explain them.")


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"dtr {__version__}")
        raise typer.Exit


@application.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Run a registry on this machine and look after it."""


def main() -> None:
    """Run `dtr`; exit status 0 is success, 1 a failure, 2 a wrong call."""
    application(prog_name="dtr" if sys.argv[0].endswith("__main__.py") else None)
