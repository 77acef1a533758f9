"""The schema that migrations make is the one that the code believes in."""

import re
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, event, text
from tests.database.processes import another_process, let_go

from dtr.database import SqliteDatabase, open_database
from dtr.database.migrate import (
    Kind,
    SchemaVersionError,
    check_schema,
    known_steps,
    migrate,
    pending_steps,
    schema_version,
)
from dtr.database.migrations import HEAD, NEEDED
from dtr.database.schema import metadata, settings


def schema_of(path: Path) -> dict[str, str]:
    """Return the statements that made everything, without what they look like."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    found = {name: " ".join(re.sub(r"[\"(),]", " ", sql).split()) for name, sql in rows}
    connection.close()
    return {name: sql for name, sql in found.items() if name != "alembic_version"}


def set_revision(database: SqliteDatabase, revision: str) -> None:
    """Make the database say that another program's migrations made it."""
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})


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
    assert pending_steps(database.engine) == []
    assert migrate(database.engine) == []
    check_schema(database.engine)
    assert schema_of(database.path) == before


def test_a_fresh_database_gets_every_step(tmp_path: Path) -> None:
    """And says which."""
    database = open_database(tmp_path / "fresh.db")
    with pytest.raises(SchemaVersionError, match="no schema yet"):
        check_schema(database.engine)
    pending = pending_steps(database.engine)
    assert migrate(database.engine) == pending == known_steps()
    assert pending[-1].revision == schema_version(database.engine).revision == HEAD
    database.close()


def test_newer_before_steps_do_no_harm(database: SqliteDatabase) -> None:
    """A program goes on working while the next one is rolled out."""
    set_revision(database, "9998")
    check_schema(database.engine)
    assert migrate(database.engine) == []
    assert schema_version(database.engine).revision == "9998"


def test_a_newer_after_step_is_refused(database: SqliteDatabase) -> None:
    """An older program does not touch what was taken from it."""
    set_revision(database, "9999")
    with database.engine.begin() as connection:
        values = {"key": "schema.oldest_program", "value": "9999"}
        connection.execute(settings.insert().values(values))
    for attempt in (migrate, pending_steps, check_schema):
        with pytest.raises(SchemaVersionError, match=f"schema 9999.*schema {HEAD}.*newer version"):
            attempt(database.engine)


def test_an_older_schema_is_refused_until_it_is_migrated(tmp_path: Path) -> None:
    """A command does not work on tables that are not there yet; the message says what to do."""
    database = open_database(tmp_path / "dtr.db")
    migrate(database.engine)
    set_revision(database, "0001")
    with pytest.raises(SchemaVersionError, match="dtr migrate of this version"):
        check_schema(database.engine)
    assert pending_steps(database.engine) == known_steps()[1:]
    database.close()


def test_an_unfinished_copy_is_refused(database: SqliteDatabase) -> None:
    """By commands and by the start of a server."""
    set_revision(database, "copying")
    for attempt in (migrate, pending_steps, check_schema):
        with pytest.raises(SchemaVersionError, match="copy that was not finished"):
            attempt(database.engine)


def test_the_constants_agree_with_the_files() -> None:
    """What spares starts from importing Alembic is right, and revisions can be compared."""
    steps = known_steps()
    assert [step.revision for step in steps] == [f"{n:04}" for n in range(1, len(steps) + 1)]
    assert steps[-1].revision == HEAD
    assert [step.revision for step in steps if step.kind is Kind.BEFORE][-1] == NEEDED


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
    check_schema(database.engine)
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
    check_schema(database.engine)
    database.close()
