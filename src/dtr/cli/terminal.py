"""What commands say and ask: tables and JSON, one sentence where they fail, questions."""

import getpass
import json
import os
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

from dtr.cli.command_line import Answer
from dtr.cli.output import cell, echo, printable
from dtr.server.passwords import read_password

T = TypeVar("T")
_PIPE_COLUMNS = 10_000


def _remember_json(value: bool) -> bool:
    Answer.in_json = value
    return value


def json_option(meaning: str) -> Any:
    """Return the option `--json`, with which errors are JSON, too."""
    return typer.Option("--json", callback=_remember_json, is_eager=True, help=meaning)


JsonOption = Annotated[bool, json_option("Answer in JSON, for scripts; errors, too.")]
PasswordFileOption = Annotated[
    Path | None,
    typer.Option(help="Read the password from the first line of this file, not from the terminal."),
]


def new_console(*, stderr: bool = False) -> Console:
    """Return a console; into a pipe or a file nothing is cut to the width of a screen.

    With NO_COLOR nothing is bold either: what is asked for is text.
    """
    file = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr,
        width=None if file.isatty() else _PIPE_COLUMNS,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
    )


def fail(message: str, *, is_sentence: bool = False) -> NoReturn:
    """Say what happened and what to do, and end with exit status 1.

    What is no sentence yet gets a capital; a sentence may begin with the name of a node. Where the
    command was to answer in JSON, it is a document on standard error.
    """
    sentence = message if is_sentence else message[:1].upper() + message[1:]
    if sentence[-1:] not in {".", "?", "!"}:
        sentence += "."
    if Answer.in_json:
        echo(json_text({"error": {"message": sentence}}, indent=2), err=True)
    else:
        warn("Error: ", "red")
        echo(sentence, err=True)
    raise typer.Exit(1)


def warn(word: str, colour: str) -> None:
    """Begin a line of standard error with a word that stands out, unless NO_COLOR is set."""
    if os.environ.get("NO_COLOR"):
        echo(word, err=True, nl=False)
    else:
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
        fail(f"{question} There is no terminal for the answer: pass --yes to continue.")
    typer.confirm(printable(question), abort=True)


def show(
    rows: Sequence[T],
    columns: Mapping[str, Callable[[T], Any]],
    *,
    as_json: bool,
    cut: str = "",
) -> None:
    """Show `rows` as a table for people or as JSON for scripts, whose keys have no spaces.

    At a terminal the column `cut` ends in three dots where it is too long for the screen.
    """
    if as_json:
        show_json(
            [
                {name.replace(" ", "_"): value(row) for name, value in columns.items()}
                for row in rows
            ]
        )
        return
    console = new_console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        is_cut = name == cut
        table.add_column(
            name,
            no_wrap=is_cut or not console.is_terminal,
            overflow="ellipsis" if is_cut else "fold",
        )
    for row in rows:
        # As text, not as markup: what users chose is shown as it is.
        table.add_row(*(cell(_cell(value(row))) for value in columns.values()))
    console.print(table)


def show_json(document: Any) -> None:
    """Print a JSON document; every time in it is as RFC 3339 has it."""
    echo(json_text(document, indent=2))


def json_text(document: Any, *, indent: int | None = None) -> str:
    """Return a JSON document in ASCII that is printable as it is."""
    # JSON leaves DEL as it is.
    text = json.dumps(json_ready(document), indent=indent, default=str)
    return text.replace("\x7f", "\\u007f")


def json_ready(value: Any, key: str = "") -> Any:
    """Return a value with its times as RFC 3339 has them.

    Times are dates, and seconds since the epoch under `at`, `since` or a key that ends in `_at`.
    """
    if isinstance(value, Mapping):
        return {str(name): json_ready(each, str(name)) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(each) for each in value]
    if isinstance(value, datetime):
        return _rfc3339(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (key in {"at", "since"} or key.endswith("_at")):
        return _rfc3339(datetime.fromtimestamp(value, UTC))
    return value


def moment(seconds: float | None) -> datetime | None:
    """Return a time for a column of `show`."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _rfc3339(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time_of(seconds: float | None) -> str | None:
    """Return a time as people read it, in UTC."""
    if seconds is None:
        return None
    return _for_people(datetime.fromtimestamp(seconds, UTC))


def _for_people(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _for_people(value) if isinstance(value, datetime) else str(value)
