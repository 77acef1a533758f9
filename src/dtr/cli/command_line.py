"""What the command lines of `dtr` and `ucp` have in common."""

import importlib
import inspect
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command_from_info, get_group_from_info
from typer.models import CommandInfo, TyperInfo

from dtr import __version__


class Answer:
    """How the command that runs answers; kept here, for options and errors both need it."""

    in_json = False


class Commands(MutableMapping[str, Any]):
    """Commands by name, each imported when it is first looked up.

    `dtr --version` and the completion of a name then load no command at all, and a command none
    of the others. A place is `package.module:function`, or a Typer application with commands of
    its own instead of the function.
    """

    def __init__(self, places: Mapping[str, str], here: Mapping[str, Any]) -> None:
        self._places = dict(places)
        self._loaded: dict[str, Any] = dict(here)

    def __getitem__(self, name: str) -> Any:
        """Return a command, ready to be called."""
        if name not in self._loaded:
            self._loaded[name] = _load(name, self._places[name])
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        """Add a command that is loaded."""
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        """Take a command away."""
        self._places.pop(name, None)
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        """Yield the names; nothing is loaded for them."""
        return iter(dict.fromkeys((*self._places, *self._loaded)))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(dict.fromkeys((*self._places, *self._loaded)))


def new_command_line(name: str, about: str, places: Mapping[str, str]) -> typer.Typer:
    """Return a command line with `version`, `--version`, `-h`, completion, and these commands."""

    class _Lazy(TyperGroup):
        def __init__(self, *args: Any, **given: Any) -> None:
            super().__init__(*args, **given)
            self.commands = Commands(places, self.commands)

    application = typer.Typer(
        cls=_Lazy,
        help=about,
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        # Its boxes cut the names of options and variables off where a terminal has 80 columns.
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def show_version(value: bool) -> None:
        if value:
            _say(f"{name} {__version__}")
            raise typer.Exit

    @application.callback()
    def root(
        *,
        version: Annotated[  # noqa: ARG001 - its callback has answered
            bool,
            typer.Option(
                "--version", callback=show_version, is_eager=True, help="Show the version."
            ),
        ] = False,
    ) -> None:
        Answer.in_json = False

    @application.command("version")
    def version_command(
        *, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
    ) -> None:
        """Show the version."""
        shown = {"name": name, "version": __version__}
        _say(json.dumps(shown, indent=2) if as_json else " ".join(shown.values()))

    return application


class _Group(TyperGroup):
    """Commands of one kind; whoever names none of them is shown them all."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is named; Typer itself shows those with nearly that name."""
        name = args[0] if args else ""
        is_one = not name or name.startswith("-") or self.get_command(ctx, name) is not None
        if not (is_one or ctx.resilient_parsing or get_close_matches(name, self.commands)):
            known = ", ".join(self.list_commands(ctx))
            ctx.fail(f"No such command {name!r}. The commands are: {known}.")
        return super().resolve_command(ctx, args)


class _Output(io.TextIOWrapper):
    """Standard output or error that remembers why it could not be written."""

    failed: OSError | None = None

    def write(self, text: str, /) -> int:
        """Write."""
        try:
            return super().write(text)
        except OSError as error:
            self.failed = error
            raise

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            super().flush()
        except OSError as error:
            self.failed = error
            raise


def run_command_line(application: typer.Typer, name: str) -> None:
    """Run a command; exit status 0 is success, 1 a failure, 2 a wrong call.

    Where standard output or standard error cannot be written, such as a file on a full disk, that
    is a failure with a sentence, too.
    """
    outputs = _watched_outputs()
    status: Any = 1
    try:
        application(prog_name=name if sys.argv[0].endswith("__main__.py") else None)
    except SystemExit as leaving:
        status = leaving.code
    except OSError as error:
        if not any(each.failed is error for each in outputs):
            raise
    failed = _end(outputs)
    if failed is not None:
        status = status or 1
        with suppress(OSError):
            sys.stderr.write(f"Error: The output cannot be written: {failed.strerror}.\n")
        _end(outputs)
    sys.exit(status)


def _watched_outputs() -> list[_Output]:
    found = []
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            output = _Output(
                stream.buffer,
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, output)
            found.append(output)
    return found


def _end(outputs: Sequence[_Output]) -> OSError | None:
    """Write what is still to be written; return why something was not.

    What cannot be written is let go of: the interpreter would try again at its end, and complain
    in its own words. A reader that has enough and goes away is no failure.
    """
    failed = None
    for output in outputs:
        with suppress(OSError):
            output.flush()
        if output.failed is None:
            continue
        if not isinstance(output.failed, BrokenPipeError):
            failed = failed or output.failed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, output.fileno())
        os.close(nowhere)
    return failed


def _say(text: str) -> None:
    """Print words of our own; the room for those of others, `output`, has Rich loaded."""
    typer.echo(text)  # noqa: TID251 - see above


def _load(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        return get_command_from_info(
            CommandInfo(name, callback=target, short_help=_summary(target)),
            pretty_exceptions_short=True,
            rich_markup_mode=None,
        )
    for command in target.registered_commands:
        # Whole: Typer would cut it off.
        command.short_help = _summary(command.callback)
    return get_group_from_info(
        TyperInfo(target, cls=_Group, name=name, short_help=str(target.info.help)),
        pretty_exceptions_short=True,
        suggest_commands=True,
        rich_markup_mode=None,
    )


def _summary(command: object) -> str:
    """Return the first paragraph of what a command says about itself."""
    return (inspect.getdoc(command) or "").partition("\n\n")[0].replace("\n", " ")
