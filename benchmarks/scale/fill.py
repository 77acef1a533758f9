"""Fill an empty registry on PostgreSQL with metadata, as many as one likes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from benchmarks.failure import BenchmarkError
from benchmarks.scale.sizes import Scale, parts
from benchmarks.scale.statements import FUNCTIONS, LARGE, PARTS, STEPS
from dtr.database import open_postgresql
from dtr.database.migrate import migrate

_POPULAR: Final = 64
_NOW: Final = 1_750_000_000.0
Connection = psycopg.Connection[tuple[Any, ...]]
Say = Callable[[str], None]


def fill(url: str, scale: Scale, say: Say = print) -> None:
    """Fill the registry at `url`, whose schema is made where it is missing; bytes there are none.

    All of it is one transaction: a run that is broken off leaves nothing. The same scale gives the
    same digests, sizes, names and tags.

    Raises:
        BenchmarkError: there is no registry of this scale, or this one is not empty.

    """
    if scale.problem is not None:
        raise BenchmarkError(scale.problem)
    database = open_postgresql(url)
    migrate(database.engine)
    database.close()
    with psycopg.connect(url) as connection:
        _refuse_content(connection)
        _prepare(connection, scale)
        with _without_indexes(connection, say):
            for title, statement in STEPS:
                with _timed(title, say):
                    connection.execute(_with_values(statement, scale))
        connection.commit()
        connection.autocommit = True
        with _timed("vacuum", say):
            for table in LARGE:
                connection.execute(
                    sql.SQL("VACUUM (FREEZE, ANALYZE) {}").format(sql.Identifier(table))
                )


def _refuse_content(connection: Connection) -> None:
    for table in ("repositories", "blobs"):
        found = connection.execute(
            sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table))
        ).fetchone()
        if found is not None:
            raise BenchmarkError("the registry is not empty")


def _prepare(connection: Connection, scale: Scale) -> None:
    """Say what goes where, as numbers, and make the functions that all steps use."""
    connection.execute("SET LOCAL work_mem = '256MB'")
    connection.execute("SET LOCAL maintenance_work_mem = '512MB'")
    connection.execute(PARTS)
    with connection.cursor().copy("COPY part FROM STDIN") as copy:
        for part in parts(scale):
            copy.write_row(part)
    connection.execute("ANALYZE part")
    connection.execute(_with_values(FUNCTIONS, scale))


def _with_values(statement: LiteralString, scale: Scale) -> sql.Composed:
    return sql.SQL(statement).format(
        seed=sql.Literal(f"{scale.seed}/"),
        now=sql.Literal(_NOW),
        users=sql.Literal(scale.users),
        repositories=sql.Literal(scale.repositories),
        blobs=sql.Literal(scale.blobs),
        popular=sql.Literal(min(_POPULAR, scale.blobs)),
    )


@contextmanager
def _without_indexes(connection: Connection, say: Say) -> Iterator[None]:
    """Take the large tables' constraints and indexes away meanwhile: in one go they are cheaper.

    Primary keys of manifests, repositories and accounts stay, for the steps look things up by them.
    """
    drops, restores = _definitions(connection)
    for drop in drops:
        connection.execute(drop)
    yield
    with _timed("indexes and constraints", say):
        for restore in restores:
            connection.execute(restore)


def _definitions(connection: Connection) -> tuple[list[sql.Composed], list[sql.Composed]]:
    constraints = connection.execute(
        """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint
        WHERE (conrelid::regclass::text = ANY (%(tables)s) AND contype IN ('f', 'u')
            OR confrelid::regclass::text = ANY (%(tables)s)
            OR conrelid::regclass::text = ANY (%(made)s) AND contype = 'p')
            AND conname NOT IN ('uq_accounts_name')
        -- Foreign keys go first and come back last.
        ORDER BY contype <> 'f', conrelid, conname
        """,
        {
            "tables": list(LARGE),
            "made": ["blobs", "repository_blobs", "manifest_references", "tags"],
        },
    ).fetchall()
    indexes = connection.execute(
        """
        SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
        WHERE indrelid::regclass::text = ANY (%s)
            AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
        """,
        (list(LARGE),),
    ).fetchall()
    drops = [
        sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
            sql.Identifier(table), sql.Identifier(name)
        )
        for table, name, _ in constraints
    ]
    drops += [sql.SQL("DROP INDEX {}").format(sql.Identifier(name)) for name, _ in indexes]
    restores = [sql.SQL(definition) + sql.SQL("") for _, definition in indexes]
    restores += [
        sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
            sql.Identifier(table), sql.Identifier(name), sql.SQL(definition)
        )
        for table, name, definition in reversed(constraints)
    ]
    return drops, restores


@contextmanager
def _timed(title: str, say: Say) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    say(f"{title}: {time.perf_counter() - begun:.1f} s")
