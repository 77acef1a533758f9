"""The schema that migrations make is the one that the code believes in."""

import re
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event, text
from tests.database.processes import another_process, let_go

from dtr.database import SqliteDatabase, open_database
from dtr.database import migrate as module
from dtr.database.migrate import SchemaVersionError, is_current, migrate, pending_revisions
from dtr.database.migrations import HEAD
from dtr.database.schema import metadata


def schema_of(path: Path) -> dict[str, str]:
    """Return the statements that made everything, without what they look like."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    found = {name: " ".join(re.sub(r"[\"(),]", " ", sql).split()) for name, sql in rows}
    connection.close()
    return {name: sql for name, sql in found.items() if name != "alembic_version"}


def test_a_fresh_database_is_the_metadata(database: SqliteDatabase) -> None:
    """Alembic finds nothing to add, to drop or to change."""
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_a_fresh_database_is_the_metadata_to_the_word(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    """Also in what Alembic does not compare: checks, partial indexes, tables without row ids."""
    engine = create_engine(f"sqlite:///{tmp_path / 'metadata.db'}")
    metadata.create_all(engine)
    engine.dispose()
    made, meant = schema_of(database.path), schema_of(tmp_path / "metadata.db")
    assert made.keys() == meant.keys()
    for name, sql in meant.items():
        assert sorted(made[name].split()) == sorted(sql.split()), name


def test_a_second_migration_does_nothing(database: SqliteDatabase) -> None:
    """There is nothing to apply, and what is there stays."""
    before = schema_of(database.path)
    assert pending_revisions(database.engine) == []
    assert migrate(database.engine) == []
    assert is_current(database.engine)
    assert schema_of(database.path) == before


def test_a_fresh_database_gets_every_revision(tmp_path: Path) -> None:
    """And says which."""
    database = open_database(tmp_path / "fresh.db")
    assert not is_current(database.engine)
    pending = pending_revisions(database.engine)
    assert migrate(database.engine) == pending
    assert pending[-1] == HEAD
    database.close()


def test_a_newer_schema_is_refused(database: SqliteDatabase) -> None:
    """An older program does not touch what it does not know."""
    with database.engine.connect() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (migrate, pending_revisions):
        with pytest.raises(SchemaVersionError, match="9999"):
            attempt(database.engine)
    assert not is_current(database.engine)


def test_the_head_is_the_newest_file() -> None:
    """The constant that spares starts from importing Alembic is right."""
    config = Config()
    config.set_main_option("script_location", str(Path(module.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    assert script.get_current_head() == HEAD
    for revision in script.walk_revisions():
        slug = Path(revision.path).stem.partition("_")[2]
        assert slug.partition("_")[0] in {"before", "after"}


@pytest.mark.parametrize("after", [1, 2, 5, 12, 20])
def test_an_interrupted_migration_is_begun_again(tmp_path: Path, after: int) -> None:
    """A first start that was cut short does not leave half a schema that nobody can use."""
    path = tmp_path / "dtr.db"
    database = open_database(path)
    statements = 0

    @event.listens_for(database.engine, "before_cursor_execute")
    def interrupt(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        nonlocal statements
        statements += statement.lstrip().startswith("CREATE")
        if statements > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate(database.engine)
    database.close()

    database = open_database(path)
    migrate(database.engine)
    assert is_current(database.engine)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.close()


def test_a_migration_waits_for_another_process(tmp_path: Path) -> None:
    """A command may still be at work when a new version starts."""
    path = tmp_path / "dtr.db"
    with another_process(path, "PRAGMA journal_mode=WAL", "BEGIN IMMEDIATE") as process:
        let_go(process, 0.8)
        database = open_database(path)
        migrate(database.engine)
    assert is_current(database.engine)
    database.close()
