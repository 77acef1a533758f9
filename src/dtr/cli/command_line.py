"""What the command lines of `dtr` and `ucp` have in common."""

import sys
from typing import Annotated

import typer

from dtr import __version__


def new_command_line(name: str, about: str) -> typer.Typer:
    """Return a command line that has no commands yet, but `--version`, `-h` and completion."""
    application = typer.Typer(
        help=about,
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def show_version(value: bool) -> None:
        if value:
            typer.echo(f"{name} {__version__}")
            raise typer.Exit

    @application.callback()
    def root(
        *,
        version: Annotated[
            bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show it.")
        ] = False,
    ) -> None:
        pass

    return application


def run_command_line(application: typer.Typer, name: str) -> None:
    """Run a command; exit status 0 is success, 1 a failure, 2 a wrong call."""
    application(prog_name=name if sys.argv[0].endswith("__main__.py") else None)
