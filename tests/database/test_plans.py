"""No statement of a hot path reads a table from its beginning to its end."""

import importlib
import pkgutil
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Index, PrimaryKeyConstraint, Table, UniqueConstraint, event
from tests.collect.yard import GRACE, UNTAGGED_GRACE, open_yard
from tests.http.client import descriptor

import dtr.accounts
import dtr.collect
import dtr.jobs
import dtr.registry
from dtr.database import Change, Lookup, SqliteDatabase
from dtr.database.schema import metadata
from dtr.model.access import Visibility
from dtr.model.manifests import OCI_MANIFEST

SCANNED_WHOLE = {"SIGNING_KEYS"}
"""A handful of rows, read once in a while."""
SORTED = {"CATALOG_PAGE_OF_ACCOUNT", "REFERRER_PAGE"}
"""Four pages into one, of grants there are few; numbers and sizes of what is on a page anyway."""
LARGE = {"blobs", "repository_blobs", "manifests", "manifest_references", "tags", "uploads"}


def prepared() -> Iterator[tuple[str, Lookup | Change]]:
    """Find every statement that is prepared."""
    for package in (dtr.accounts, dtr.collect, dtr.jobs, dtr.registry):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for name, value in vars(importlib.import_module(found.name)).items():
                if isinstance(value, Lookup | Change):
                    yield name, value


def plan(connection: sqlite3.Connection, sql: str, parameters: dict[str, object]) -> list[str]:
    """Return how SQLite would go about it."""
    rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
    return [row[3] for row in rows]


@pytest.fixture
def connection(database: SqliteDatabase) -> Iterator[sqlite3.Connection]:
    """Give a connection to an empty registry's metadata."""
    connection = sqlite3.connect(database.path)
    yield connection
    connection.close()


@pytest.mark.parametrize(("name", "statement"), list(dict(prepared()).items()))
def test_a_prepared_statement_uses_an_index(
    connection: sqlite3.Connection, name: str, statement: Lookup | Change
) -> None:
    """Point queries stay point queries however large the registry grows."""
    parameters = dict.fromkeys(re.findall(r":(\w+)", statement.sqlite.sql), 0)
    steps = plan(connection, statement.sqlite.sql, {**parameters, **statement.sqlite.constants})
    if name in SCANNED_WHOLE:
        return
    scans = [step for step in steps if re.match(r"SCAN (?!\(subquery|anon_)", step)]
    assert scans == []
    assert name in SORTED or not any("TEMP B-TREE" in step for step in steps)


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=str)
def test_every_foreign_key_has_an_index(table: Table) -> None:
    """Without one, each delete of what it refers to would read the whole table."""
    keys = [
        list(key.columns)
        for key in (*table.indexes, *table.constraints)
        if isinstance(key, Index | PrimaryKeyConstraint | UniqueConstraint)
    ]
    for foreign in table.foreign_key_constraints:
        columns = list(foreign.columns)
        assert any(key[: len(columns)] == columns for key in keys), columns


async def test_no_unit_of_a_push_or_of_collection_scans(tmp_path: Path) -> None:
    """All that a busy registry runs, seen by the engine, has indexes for the large tables."""
    async with open_yard(tmp_path) as yard:
        seen: set[str] = set()

        @event.listens_for(yard.state.database.engine, "connect")
        def watch(driver: sqlite3.Connection, _record: object) -> None:
            driver.set_trace_callback(seen.add)

        yard.state.database.engine.dispose()
        yard.state.administration.create_repository("admin/app", Visibility.PUBLIC)
        repository = yard.repository()
        signed = await repository.push_image("latest", b"layer")
        subject = {"subject": descriptor(signed.payload, OCI_MANIFEST)}
        await repository.push_image("signature", **subject)
        await repository.push_index("multi", signed)
        await repository.push_image(None)
        await yard.client.delete(repository.manifest("signature"))
        for _ in range(3):
            yard.clock.advance(UNTAGGED_GRACE + GRACE)
            await yard.collect(untagged=True)
        await yard.collector(untagged=True).plan()
        _assert_no_scans(yard.directory / "dtr.db", seen)


def _assert_no_scans(path: Path, statements: set[str]) -> None:
    connection = sqlite3.connect(path)
    explained = 0
    for sql in statements:
        if not sql.startswith(("SELECT", "UPDATE", "DELETE")):
            continue
        explained += 1
        for step in plan(connection, sql, {}):
            scanned = re.match(
                r"SCAN (\w+)(?! USING INDEX ix_\w+_(?:review|condemned|edges))", step
            )
            assert scanned is None or scanned[1] not in LARGE, f"{step}: {sql}"
    connection.close()
    assert explained > 10
