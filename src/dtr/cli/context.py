"""What commands share: options, the data directory, output, and errors as sentences."""

import getpass
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar
from urllib.parse import parse_qs, urlsplit

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dtr.database import Database
from dtr.database.migrate import check_schema
from dtr.model.errors import RegistryError
from dtr.registry.records import storage_in_use
from dtr.server.certificates import CertificateError
from dtr.server.datadir import DataDirectory, DataDirectoryError
from dtr.server.drivers import Drivers, open_drivers
from dtr.server.passwords import read_password
from dtr.server.serve import StartError
from dtr.server.settings import Settings, SettingsError, load_settings
from dtr.storage import BlobStore

T = TypeVar("T")
_PIPE_COLUMNS = 10_000
_WAIT_SECONDS = 10
_WHERE_TO_PUT_IT = (
    "Put it into a file and name that in DTR_DATABASE__PASSWORD_FILE, or put the whole URL into "
    "DTR_DATABASE__URL."
)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", envvar="DTR_CONFIG", help="TOML file with settings.", dir_okay=False),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Where the registry keeps everything. \\[default: ./data]",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]
PasswordFileOption = Annotated[
    Path | None,
    typer.Option(help="Read the password from the first line of this file, not from the terminal."),
]

# Into a pipe or a file nothing is cut to the width of a screen.
_CONSOLE = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)


@dataclass(frozen=True, slots=True)
class Registry:
    """An existing registry, opened beside the server that may be running on it."""

    settings: Settings
    drivers: Drivers

    @property
    def database(self) -> Database:
        """Its metadata."""
        return self.drivers.database

    @property
    def store(self) -> BlobStore:
        """Its blobs; asked for with other settings than the server's, everything would be missing.

        Raises:
            DataDirectoryError: these settings name another storage than the server's.

        """
        used, named = self.database.read_now(storage_in_use), self.settings.storage.url
        if used is not None and used != named:
            raise DataDirectoryError(
                f"The registry's blobs are in {used or 'the data directory'}, "
                f"and these settings name {named or 'the data directory'}.",
                "Give the server's settings: --config, or DTR_STORAGE__URL.",
            )
        return self.drivers.store


@contextmanager
def failures_as_sentences() -> Iterator[None]:
    """Turn what can go wrong into one message and exit status 1."""
    try:
        yield
    except SettingsError as error:
        fail(f"The settings are not usable:\n{error}")
    except (DataDirectoryError, CertificateError, StartError, RegistryError) as error:
        fail(str(error))


def refuse_password(database_url: str | None, remedy: str = _WHERE_TO_PUT_IT) -> None:
    """Fail where the command line has a password: every user of the machine can read it there."""
    if database_url is None:
        return
    parts = urlsplit(database_url)
    if parts.password is not None or "password" in parse_qs(parts.query):
        fail(
            "the command line is no place for a password: other users of this machine can read it. "
            + remedy
        )


def fail(message: str) -> NoReturn:
    """Say what happened and what to do, and end with exit status 1."""
    typer.secho("Error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(message[:1].upper() + message[1:], err=True)
    raise typer.Exit(1)


def settings_of(
    config: Path | None,
    data_dir: Path | None,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
) -> Settings:
    """Return the settings, with the command line's above all."""
    given = {section: dict(values) for section, values in (overrides or {}).items()}
    if data_dir is not None:
        given.setdefault("data", {})["directory"] = data_dir
    return load_settings(config, given)


@contextmanager
def open_registry(config: Path | None, data_dir: Path | None) -> Iterator[Registry]:
    """Open an existing registry for a command, and say in a sentence what is wrong with it."""
    with failures_as_sentences():
        settings = settings_of(config, data_dir)
        drivers = open_drivers(settings, _directory(settings))
        try:
            drivers.database.wait_until_there(seconds=_WAIT_SECONDS)
            check_schema(drivers.database.engine)
            yield Registry(settings, drivers)
        finally:
            drivers.database.close()


def _directory(settings: Settings) -> Path:
    """Return the data directory; an embedded registry must be in it."""
    if settings.database.url:
        return settings.data.directory
    directory = DataDirectory.open_shared(settings.data.directory)
    if not directory.database.exists():
        raise DataDirectoryError(
            f"The directory {directory.path} holds no registry yet.",
            "Start it once with dtr serve, or name its database with DTR_DATABASE__URL.",
        )
    return directory.path


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


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed; without a terminal, `--yes` must have been given."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Not at a terminal: pass --yes to go ahead.")
    typer.confirm(question, abort=True)


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
        table.add_row(*(Text(_cell(value(row))) for value in columns.values()))
    _CONSOLE.print(table)


def show_json(document: Any) -> None:
    """Print a JSON document."""
    typer.echo(json.dumps(document, indent=2, default=str))


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
