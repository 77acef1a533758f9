"""Bring a database to the schema of this program.

Migrations come in two kinds, told apart by the first word of their file's slug: `before` is safe
while the old program still runs, `after` only when it does not any more (design 6).

Which program may use which database is decided by two numbers. The database's revision must be at
least the program's `NEEDED`, its newest *before* step. And the program must know the newest *after*
step that was applied: its revision is kept in the table `settings`, where also a program that is
older than the database finds it. So an old program goes on working beside newer *before* steps.

An embedded database has one server, whose start applies everything. On PostgreSQL a start makes an
empty database whole and applies *before* steps; *after* steps are asked for.

Alembic is imported only where something is to be applied: at every other start it would cost each
process 12 MB and the start 0.2 seconds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, delete, insert, inspect, select, text

from dtr.database.migrations import HEAD, NEEDED
from dtr.database.schema import accounts, settings
from dtr.database.sqlite import connections as sqlite
from dtr.model.errors import InvalidError

_LOG = structlog.get_logger()
_PLACE = Path(__file__).parent / "migrations"
_OLDEST_PROGRAM = "schema.oldest_program"
_FIRST = "0001"
_WAIT_MILLISECONDS = 60_000

COPYING = "copying"
"""The revision of a database that a copy is made into; no program serves it."""


class SchemaVersionError(InvalidError):
    """The metadata belongs to another version of this program."""


class Kind(StrEnum):
    """When a step may be applied."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Step:
    """One migration."""

    revision: str
    kind: Kind
    summary: str


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """What a database says of its own schema; `revision` is None where it is empty.

    `oldest_program` is the revision of the oldest program that may still use it.
    """

    revision: str | None
    oldest_program: str = _FIRST

    @property
    def problem(self) -> str | None:
        """Why this program cannot use the database, or None when it can."""
        if self.revision is None:
            return "the metadata has no schema yet: start dtr serve, or run dtr migrate"
        if not self.revision.isdigit():
            return (
                "the metadata is a copy that was not finished: run the same dtr copy-metadata again"
            )
        if int(self.oldest_program) > int(HEAD):
            return (
                f"the metadata has schema {self.revision}, which this version of dtr"
                f" (schema {HEAD}) does not know: use a newer version"
            )
        if int(self.revision) < int(NEEDED):
            return (
                f"the metadata has schema {self.revision}, and this version of dtr needs"
                f" {NEEDED}: run dtr migrate of this version; if that is not enough, an earlier"
                " upgrade was not finished, and dtr migrate --after does it"
            )
        return None


def schema_version(engine: Engine) -> SchemaVersion:
    """Return what the database says of its schema.

    Raises:
        ContentDamagedError: the file is not a database, or not a whole one.

    """
    try:
        with engine.connect() as connection:
            return _schema_version(connection)
    except sqlite.DRIVER_ERRORS as error:
        raise translated(engine, error) from error


def check_schema(engine: Engine) -> None:
    """Make sure that this program can use the database as it is.

    Raises:
        SchemaVersionError: it cannot, and the message says what to do.

    """
    problem = schema_version(engine).problem
    if problem is not None:
        raise SchemaVersionError(problem)


def pending_steps(engine: Engine) -> list[Step]:
    """Return what this program has and the database has not, oldest first.

    Raises:
        SchemaVersionError: the database is not for this program.

    """
    version = schema_version(engine)
    if version.revision == HEAD:
        return []
    if version.revision is not None and (
        not version.revision.isdigit() or int(version.oldest_program) > int(HEAD)
    ):
        raise SchemaVersionError(version.problem or "")
    applied = int(version.revision or 0)
    return [step for step in known_steps() if int(step.revision) > applied]


def applicable_steps(engine: Engine, *, after: bool = False) -> list[Step]:
    """Return those of the pending steps that `migrate` would apply."""
    pending = pending_steps(engine)
    if after or engine.dialect.name == "sqlite" or _is_unused(engine):
        return pending
    return list(takewhile(lambda step: step.kind is Kind.BEFORE, pending))


def known_steps() -> list[Step]:
    """Return every step that this program has, oldest first."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    script = ScriptDirectory.from_config(_config())
    return [_step(revision) for revision in script.walk_revisions()][::-1]


def migrate(engine: Engine, *, after: bool = False) -> list[Step]:
    """Apply what may be applied now; return it, oldest first.

    On PostgreSQL *after* steps wait for `after`, unless nobody has used the database yet.

    A step is applied whole or not at all; on SQLite all of them are. Of several processes one
    migrates, and the others wait and find it done.

    Raises:
        SchemaVersionError: this program cannot use the database, also after its steps.
        UnavailableError: others held the tables, or the migration's lock, for ten minutes.

    """
    if not pending_steps(engine):
        done: list[Step] = []
    elif engine.dialect.name == "sqlite":
        done = _migrate_sqlite(engine)
    else:
        done = _migrate_postgresql(engine, after=after)
    check_schema(engine)
    return done


def programs_connected(engine: Engine) -> dict[str, int]:
    """Return how many connections programs have open, by the newest revision that they know.

    Only PostgreSQL knows.
    """
    return {} if engine.dialect.name == "sqlite" else _postgresql().programs_connected(engine)


def translated(engine: Engine, error: BaseException) -> Exception:
    """Return what a driver's error means to the registry."""
    if engine.dialect.name == "sqlite":
        return sqlite.translated(error)
    meaning: Exception = import_module("dtr.database.postgresql.errors").translated(error)
    return meaning


@contextmanager
def alone_with_schema(engine: Engine) -> Iterator[None]:
    """Let nobody else change the schema; the caller holds an SQLite file by its directory."""
    if engine.dialect.name == "sqlite":
        yield
    else:
        with _postgresql().only_migration(engine):
            yield


def _upgrade(connection: Connection, revision: str = "head") -> None:
    """Apply the steps up to `revision`, on SQLite in the transaction that the caller began."""
    from alembic import command  # noqa: PLC0415

    command.upgrade(_config(connection), revision)


def _migrate_sqlite(engine: Engine) -> list[Step]:
    with engine.begin() as connection:
        # The driver does not begin by itself, and Alembic takes SQLite's DDL for untransactional.
        connection.exec_driver_sql(f"PRAGMA busy_timeout={_WAIT_MILLISECONDS}")
        connection.exec_driver_sql(sqlite.BEGIN_WRITING)
        pending = pending_steps(engine)
        _upgrade(connection)
        connection.detach()
    return pending


def _migrate_postgresql(engine: Engine, *, after: bool) -> list[Step]:
    with alone_with_schema(engine):
        chosen = applicable_steps(engine, after=after)
        for step in chosen:
            _postgresql().apply(engine, partial(_upgrade, revision=step.revision))
            _LOG.info("schema changed", revision=step.revision, summary=step.summary)
    return chosen


def _postgresql() -> Any:
    """Return the module that only PostgreSQL needs, as it loads the driver."""
    return import_module("dtr.database.postgresql.migration")


def _is_unused(engine: Engine) -> bool:
    """Tell whether there is no account yet: so no server has ever served this database."""
    with engine.connect() as connection:
        if not inspect(connection).has_table(accounts.name):
            return True
        return connection.execute(select(accounts.c.id).limit(1)).first() is None


def _schema_version(connection: Connection) -> SchemaVersion:
    if not inspect(connection).has_table("alembic_version"):
        return SchemaVersion(None)
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if found is None or not str(found).isdigit():
        return SchemaVersion(found)
    oldest = connection.execute(
        select(settings.c.value).where(settings.c.key == _OLDEST_PROGRAM)
    ).scalar()
    return SchemaVersion(str(found), oldest or _FIRST)


def _record_oldest_program(*, ctx: Any, step: Any, **_rest: Any) -> None:
    """Lock programs out that do not know an *after* step, in the step's own transaction."""
    applied = _step(step.up_revision)
    if applied.kind is Kind.AFTER:
        ctx.connection.execute(delete(settings).where(settings.c.key == _OLDEST_PROGRAM))
        ctx.connection.execute(insert(settings).values(key=_OLDEST_PROGRAM, value=applied.revision))


def _step(revision: Any) -> Step:
    kind = Path(revision.path).stem.split("_")[1]
    return Step(revision.revision, Kind(kind), revision.doc)


def _config(connection: Connection | None = None) -> Any:
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_PLACE))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["on_version_apply"] = _record_oldest_program
    return config
