"""Bring a database to the schema of this program.

Migrations come in two kinds, told apart by the first word of their file's slug: `before` is safe
while the old program still runs, `after` only when it does not any more (design 6).

Alembic is imported only where the schema is not this program's own: at every other start it would
cost each process 12 MB and the start 0.2 seconds.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, inspect, text

from dtr.database.migrations import HEAD
from dtr.database.sqlite import connections as sqlite
from dtr.model.errors import InvalidError

_PLACE = Path(__file__).parent / "migrations"
_WAIT_MILLISECONDS = 60_000


class SchemaVersionError(InvalidError):
    """The metadata belongs to another version of this program."""


def current_revision(engine: Engine) -> str | None:
    """Return the revision of the database, or None where it is empty.

    Raises:
        ContentDamagedError: the file is not a database, or not a whole one.

    """
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except sqlite.DRIVER_ERRORS as error:
        raise sqlite.translated(error) from error
    return None if found is None else str(found)


def is_current(engine: Engine) -> bool:
    """Tell whether the database has this program's schema."""
    return current_revision(engine) == HEAD


def migrate(engine: Engine) -> list[str]:
    """Apply what is missing; return the revisions that were applied, oldest first.

    All of it or nothing: a start that is cut short here leaves no half of a schema.

    Raises:
        SchemaVersionError: the database is newer than this program.

    """
    if is_current(engine):
        return []
    from alembic import command  # noqa: PLC0415

    pending = pending_revisions(engine)
    with engine.begin() as connection:
        # The driver does not begin by itself, and Alembic takes SQLite's DDL for untransactional.
        connection.exec_driver_sql(f"PRAGMA busy_timeout={_WAIT_MILLISECONDS}")
        connection.exec_driver_sql(sqlite.BEGIN_WRITING)
        command.upgrade(_config(connection), "head")
        connection.detach()
    return pending


def pending_revisions(engine: Engine) -> list[str]:
    """Return the revisions that `migrate` would apply, oldest first; see it for what it raises."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    script = ScriptDirectory.from_config(_config(None))
    known = [revision.revision for revision in script.walk_revisions()][::-1]
    current = current_revision(engine)
    if current is None:
        return known
    if current not in known:
        message = f"the metadata has schema {current}, which this version of dtr does not know"
        raise SchemaVersionError(message)
    return known[known.index(current) + 1 :]


def _config(connection: object) -> Any:
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_PLACE))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
