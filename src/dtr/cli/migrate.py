"""`dtr migrate`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer
from sqlalchemy import Engine

from dtr.cli.context import (
    ConfigOption,
    DataDirOption,
    failures_as_sentences,
    refuse_password,
    settings_of,
    wait_for,
)
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, confirm, show_json
from dtr.database.migrate import (
    Kind,
    Step,
    applicable_steps,
    migrate,
    pending_steps,
    programs_connected,
    schema_version,
)
from dtr.server.datadir import DataDirectory
from dtr.server.drivers import open_metadata
from dtr.server.logs import configure_logging
from dtr.server.metrics import Metrics
from dtr.server.settings import Settings


def migrate_metadata(
    after: Annotated[
        bool,
        typer.Option("--after", help="Also apply the steps that break servers of older versions."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be applied; change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
    database_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="PostgreSQL as a libpq URL.", show_default=False),
    ] = None,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Update the metadata to the schema of this version.

    There are two kinds of steps. After a 'before' step, servers of the previous version still work:
    apply these steps first, then replace the servers one by one. (The start of a new server also
    applies them.) When no old server is left, --after applies the other steps. It warns if old
    servers are still connected.

    For an embedded registry (SQLite) the start of the server applies both kinds. So does this
    command while the server is stopped.
    """
    refuse_password(database_url)
    with failures_as_sentences():
        overrides = {"database": {"url": database_url}} if database_url else {}
        settings = settings_of(config, data_dir, overrides)
        configure_logging(settings.log.format, "warning")
        with _metadata(settings, is_read_only=dry_run) as engine:
            wanted = applicable_steps(engine, after=after)
            if not dry_run:
                _check_servers(engine, wanted, yes=yes)
                wanted = migrate(engine, after=after)
            pending = [step for step in pending_steps(engine) if step not in wanted]
            revision = schema_version(engine).revision
    if as_json:
        document = {
            "dry_run": dry_run,
            "revision": revision,
            "applied": [asdict(step) for step in wanted],
            "pending": [asdict(step) for step in pending],
        }
        show_json(document)
        return
    _show("Would apply" if dry_run else "Applied", wanted)
    if pending:
        _show("Left for --after, when no older server runs", pending)


def _show(what: str, steps: Sequence[Step]) -> None:
    echo(f"{what}:" if steps else f"{what}: nothing.")
    for step in steps:
        echo(f"  {step.revision} {step.kind}: {step.summary}")


def _check_servers(engine: Engine, steps: Sequence[Step], *, yes: bool) -> None:
    """Ask before servers that run lose what they need."""
    breaking = [step.revision for step in steps if step.kind is Kind.AFTER]
    if not breaking:
        return
    older = {
        revision: count
        for revision, count in programs_connected(engine).items()
        if int(revision) < int(breaking[-1])
    }
    if older:
        shown = ", ".join(f"{count} with schema {revision}" for revision, count in older.items())
        confirm(
            f"Older servers are connected ({shown}) and will fail after this. Apply anyway?",
            yes=yes,
        )


@contextmanager
def _metadata(settings: Settings, *, is_read_only: bool) -> Iterator[Engine]:
    """Open the metadata; a data directory is held, so that no server starts on it meanwhile."""
    directory = settings.data.directory
    if not settings.database.url:
        opened = DataDirectory.open_shared if is_read_only else DataDirectory.open
        with opened(directory) as held:
            database = open_metadata(settings, held.path, Metrics())
            try:
                yield database.engine
            finally:
                database.close()
        return
    database = open_metadata(settings, directory, Metrics())
    try:
        wait_for(database, settings)
        yield database.engine
    finally:
        database.close()
