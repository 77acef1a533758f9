"""Bring a database to the schema of this program.

Migrations come in two kinds, told apart by the first word of their file's slug: `before` is safe
while the old program still runs, `after` only when it does not any more (design 6).
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from dtr.model.errors import InvalidError

_PLACE = Path(__file__).parent / "migrations"


class SchemaVersionError(InvalidError):
    """The metadata belongs to another version of this program."""


def migrate(engine: Engine) -> list[str]:
    """Apply what is missing; return the revisions that were applied, oldest first.

    Raises:
        SchemaVersionError: the database is newer than this program.

    """
    pending = pending_revisions(engine)
    if pending:
        with engine.begin() as connection:
            command.upgrade(_config(connection), "head")
    return pending


def pending_revisions(engine: Engine) -> list[str]:
    """Return the revisions that `migrate` would apply, oldest first."""
    script = ScriptDirectory.from_config(_config(None))
    known = [revision.revision for revision in script.walk_revisions()][::-1]
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current is None:
        return known
    if current not in known:
        message = f"the metadata has schema {current}, which this version of dtr does not know"
        raise SchemaVersionError(message)
    return known[known.index(current) + 1 :]


def _config(connection: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_PLACE))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
