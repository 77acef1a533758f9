"""What the command lines of `dtr` and `ucp` have in common."""

import inspect
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
        # Its boxes cut the names of options and variables off where a terminal has 80 columns.
        rich_markup_mode=None,
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
    _list_whole_summaries(application)
    application(prog_name=name if sys.argv[0].endswith("__main__.py") else None)


def _list_whole_summaries(application: typer.Typer) -> None:
    """Let lists of commands have the summaries whole, which Typer would cut off."""
    for command in application.registered_commands:
        if command.callback is not None:
            summary = (inspect.getdoc(command.callback) or "").partition("\n\n")[0]
            command.short_help = summary.replace("\n", " ")
    for group in application.registered_groups:
        if group.typer_instance is not None:
            _list_whole_summaries(group.typer_instance)
