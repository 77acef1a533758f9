"""The schema on PostgreSQL: what migrations make of it, one at a time, in nobody's way."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, text
from tests.support.postgresql import RunningPostgresql, temporary_database
from tests.support.processes import wait_until

from dtr.database.migrate import (
    SchemaVersionError,
    _upgrade,
    check_schema,
    known_steps,
    migrate,
    pending_steps,
    programs_connected,
    schema_version,
)
from dtr.database.migrations import APPLICATION_NAME, HEAD
from dtr.database.postgresql.migration import apply
from dtr.database.schema import metadata

pytestmark = pytest.mark.postgresql

CATALOG = """
SELECT 'column ' || c.relname || '.' || a.attname,
       format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull
       || ' ' || coalesce(l.collname, '') || ' ' || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
 WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
   AND c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'index ' || indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'constraint ' || conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE connamespace = 'public'::regnamespace
"""


def engine_of(url: str) -> Engine:
    """Return a pool of connections that call themselves as a server's do."""
    return create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"),
        connect_args={"application_name": APPLICATION_NAME},
    )


def catalog(engine: Engine) -> dict[str, str]:
    """Return everything that the database has been told of its tables."""
    with engine.connect() as connection:
        rows = connection.execute(text(CATALOG)).all()
    assert all(row[1] for row in rows)
    return {row[0]: row[1] for row in rows if "alembic_version" not in row[0]}


@pytest.fixture
def engine(postgresql_url: str) -> Iterator[Engine]:
    """Give an empty database."""
    engine = engine_of(postgresql_url)
    yield engine
    engine.dispose()


def test_an_empty_database_becomes_the_metadata(
    engine: Engine, postgresql: RunningPostgresql
) -> None:
    """To the word: types, defaults, collations, checks, partial and unique indexes."""
    assert migrate(engine) == known_steps()
    check_schema(engine)
    assert migrate(engine) == []
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    with temporary_database(postgresql) as url:
        meant = engine_of(url)
        metadata.create_all(meant)
        assert catalog(engine) == catalog(meant)
        meant.dispose()


def test_servers_that_start_at_once_migrate_once(engine: Engine) -> None:
    """One of them makes the tables, the others wait for it and find them."""
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: migrate(engine), range(4)))
    assert sorted(map(len, done)) == [0, 0, 0, len(known_steps())]
    check_schema(engine)


def test_a_first_start_that_was_cut_short_goes_on(engine: Engine) -> None:
    """Each step is there whole or not at all."""
    apply(engine, partial(_upgrade, revision="0001"))
    with pytest.raises(SchemaVersionError, match="needs"):
        check_schema(engine)
    assert migrate(engine) == known_steps()[1:]
    check_schema(engine)


@pytest.mark.measuring
def test_a_step_lets_traffic_pass_while_it_waits(engine: Engine) -> None:
    """What it needs a lock of is in use: others do not queue behind it for long."""
    apply(engine, partial(_upgrade, revision="0001"))
    with engine.begin() as reader:
        reader.execute(text("SELECT count(*) FROM uploads"))  # and does not end yet
        migration = threading.Thread(target=migrate, args=(engine,))
        migration.start()
        wait_until(lambda: is_anybody_waiting(engine), "the step waits for the table")
        started = time.monotonic()
        with engine.connect() as other:
            other.execute(text("SELECT count(*) FROM uploads"))
        assert time.monotonic() - started < 3
        assert migration.is_alive()
    migration.join(30)
    assert not migration.is_alive()
    assert schema_version(engine).revision == HEAD


def test_connections_say_which_programs_serve(engine: Engine) -> None:
    """So that a step that breaks older ones is not applied beside them."""
    migrate(engine)
    with engine.connect() as first, engine.connect():
        first.execute(text("SET application_name = 'dtr schema 0001'"))
        assert programs_connected(engine)["0001"] == 1
        assert programs_connected(engine)[HEAD] >= 1
        first.execute(text("RESET application_name"))
    assert pending_steps(engine) == []


def is_anybody_waiting(engine: Engine) -> bool:
    """Whether a statement waits for a lock of this database's tables."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
    with engine.connect() as connection:
        return bool(connection.execute(text(waiting)).scalar())
