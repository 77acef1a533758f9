"""What commands say and ask: tables and JSON, one sentence where they fail, questions."""

import getpass
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from dtr.cli.output import cell, echo, printable
from dtr.server.passwords import read_password

T = TypeVar("T")
_PIPE_COLUMNS = 10_000

JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]
PasswordFileOption = Annotated[
    Path | None,
    typer.Option(help="Read the password from the first line of this file, not from the terminal."),
]

# Into a pipe or a file nothing is cut to the width of a screen.
_CONSOLE = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)


def fail(message: str, *, is_sentence: bool = False) -> NoReturn:
    """Say what happened and what to do, and end with exit status 1.

    What is no sentence yet gets a capital; a sentence may begin with the name of a node.
    """
    warn("Error: ", "red")
    echo(message if is_sentence else message[:1].upper() + message[1:], err=True)
    raise typer.Exit(1)


def warn(word: str, colour: str) -> None:
    """Print a word in colour to standard error, before a message that echo prints."""
    typer.secho(word, fg=colour, bold=True, err=True, nl=False)  # noqa: TID251 - our own words


def ask_password(name: str, password_file: Path | None) -> str:
    """Return a new password from the file, from a terminal (twice), or from standard input."""
    if password_file is not None:
        return read_password(password_file)
    if not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\n")
        if not password:
            fail("No password: pass --password-file FILE, or write the password to standard input.")
        return password
    password = getpass.getpass(f"Password for {name}: ")
    if getpass.getpass("Again: ") != password:
        fail("The two passwords differ.")
    return password


@contextmanager
def drawing() -> Iterator[None]:
    """Keep Ctrl-C back until what is drawn on the terminal is whole.

    A display of rich that is interrupted while it starts or stops cannot be stopped any more.
    """
    strikes: list[int] = []
    earlier = signal.signal(signal.SIGINT, lambda number, _frame: strikes.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)
        if strikes:
            signal.raise_signal(signal.SIGINT)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed; without a terminal, `--yes` must have been given."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Not at a terminal: pass --yes to go ahead.")
    typer.confirm(printable(question), abort=True)


def show(rows: Sequence[T], columns: Mapping[str, Callable[[T], Any]], *, as_json: bool) -> None:
    """Show `rows` as a table for people or as JSON for scripts."""
    if as_json:
        show_json([{name: value(row) for name, value in columns.items()} for row in rows])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, no_wrap=not _CONSOLE.is_terminal)
    for row in rows:
        # As text, not as markup: what users chose is shown as it is.
        table.add_row(*(cell(_cell(value(row))) for value in columns.values()))
    _CONSOLE.print(table)


def show_json(document: Any) -> None:
    """Print a JSON document."""
    echo(json_text(document, indent=2))


def json_text(document: Any, *, indent: int | None = None) -> str:
    """Return a JSON document in ASCII that is printable as it is."""
    # JSON leaves DEL as it is.
    return json.dumps(document, indent=indent, default=str).replace("\x7f", "\\u007f")


def time_of(moment: float | None) -> str | None:
    """Return a time as people read it, in UTC."""
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
