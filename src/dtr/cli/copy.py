"""`dtr copy-metadata`."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from sqlalchemy import Engine

from dtr.cli.context import failures_as_sentences, refuse_password
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, fail, new_console, show, show_json
from dtr.database import Database, open_database, open_postgresql
from dtr.server.datadir import DataDirectory, DataDirectoryError
from dtr.server.passwords import read_password
from dtr.transfer.metadata import MetadataCopy, Observe

_CONSOLE = new_console(stderr=True)
_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
)
_FILE = "dtr.db"
_WAIT_SECONDS = 10
_PLACE = "sqlite:DIR|FILE or postgresql://..."


class Use(NamedTuple):
    """What one side of a copy is used for."""

    must_exist: bool
    is_read_only: bool


def copy_metadata(
    source: Annotated[str, typer.Option("--from", metavar="PLACE", help=f"What to copy: {_PLACE}")],
    target: Annotated[str, typer.Option("--to", metavar="PLACE", help=f"Where to: {_PLACE}")],
    source_password_file: Annotated[
        Path | None,
        typer.Option("--from-password-file", help="File with the password of the source database."),
    ] = None,
    target_password_file: Annotated[
        Path | None,
        typer.Option("--to-password-file", help="File with the password of the target database."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the registry in the target.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check both sides and count rows; change nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy a registry's metadata to another database: SQLite to PostgreSQL, or back.

    Copies accounts, tokens, repositories, tags and manifests. The bytes of blobs stay where they
    are; 'dtr storage copy' copies them. First stop the servers of both sides. DIR is a data
    directory. It is locked during the copy, so that no server can start on it.

    The copy is one transaction. Before it is committed, it is compared with its source. After an
    interruption no server starts on the target: run the same command again.
    """
    with failures_as_sentences(), ExitStack() as stack:
        engines = [
            stack.enter_context(_opened(source, source_password_file, Use(True, dry_run))),
            stack.enter_context(_opened(target, target_password_file, Use(dry_run, dry_run))),
        ]
        if dry_run:
            tables = MetadataCopy(*engines, overwrite=overwrite).plan()
        else:
            bars = stack.enter_context(_progress())
            tables = MetadataCopy(*engines, overwrite=overwrite, observe=_observer(bars)).run()
    if as_json:
        show_json({"dry_run": dry_run, "tables": [asdict(table) for table in tables]})
        return
    show(tables, {"TABLE": lambda t: t.name, "ROWS": lambda t: t.rows}, as_json=False)
    rows = sum(table.rows for table in tables)
    echo(f"{'Would copy' if dry_run else 'Copied and compared'} {rows} rows.")


def _progress() -> Progress:
    """Return bars that vanish in the end; nothing where nobody watches."""
    is_watched = _CONSOLE.is_terminal
    return Progress(*_COLUMNS, console=_CONSOLE, transient=True, disable=not is_watched)


def _observer(bars: Progress) -> Observe:
    """Return what shows a bar for each table."""
    tasks: dict[str, TaskID] = {}

    def observe(table: str, done: int, total: int) -> None:
        if table not in tasks:
            tasks[table] = bars.add_task(table)
        bars.update(tasks[table], completed=done, total=total)

    return observe


@contextmanager
def _opened(place: str, password_file: Path | None, use: Use) -> Iterator[Engine]:
    """Open one side; a data directory that is not only looked at is held as a server holds it."""
    kind, _, rest = place.partition(":")
    database: Database
    with ExitStack() as stack:
        if kind == "sqlite" and rest:
            file = _sqlite_file(Path(rest), stack, use)
            database = open_database(file)
        elif kind in {"postgresql", "postgres"}:
            refuse_password(
                place,
                "Put it into a file and name that in --from-password-file or --to-password-file.",
            )
            password = None if password_file is None else read_password(password_file)
            database = open_postgresql(place, password=password)
            database.wait_until_there(seconds=_WAIT_SECONDS)
        else:
            fail(f"No place of metadata begins with {kind}: name {_PLACE}.")
        stack.callback(database.close)
        yield database.engine


def _sqlite_file(path: Path, stack: ExitStack, use: Use) -> Path:
    """Return the file of a data directory, which is held until the end, or a file of its own."""
    if path.name == _FILE and not path.is_dir():
        path = path.parent
    if path.is_file():
        return path  # a backup: no server uses it
    if use.must_exist:
        directory = DataDirectory.open_shared(path)  # says what is wrong with it
    if not use.is_read_only:
        directory = stack.enter_context(DataDirectory.open(path, minimum_free_bytes=0))
    if use.must_exist and not directory.database.exists():
        raise DataDirectoryError(
            f"The directory {path} holds no metadata.", "Name the directory that a server used."
        )
    return directory.database
