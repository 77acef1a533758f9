"""Copy a registry's metadata to another database, in one transaction, and compare it.

A registry has one truth, so neither side may be in use: the caller holds the data directory of an
SQLite file, and connections of servers to a PostgreSQL are looked for. The source is read as one
snapshot. The target says first, durably, that it is a copy under way, which every version of the
program refuses to serve; then schema, rows and the true version are committed together. A copy that
is cut off has therefore copied nothing, and the next one begins anew.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    MetaData,
    String,
    Table,
    delete,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError

from dtr.database.migrate import (
    COPYING,
    alone_with_schema,
    programs_connected,
    schema_version,
    translated,
)
from dtr.database.migrations import HEAD
from dtr.database.schema import manifests, metadata, uploads
from dtr.model.errors import InvalidError

_ROWS = 1000
# A manifest may be megabytes large.
_MANIFESTS = 25

_VERSION = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


class MetadataCopyError(InvalidError):
    """The metadata cannot be copied."""


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """How many rows a table has; `checksum` is of their values, in whichever order."""

    name: str
    rows: int
    checksum: str = ""


Observe = Callable[[str, int, int], None]
"""Told of a table, how many of its rows are done, and how many there are."""


class MetadataCopy:
    """One copy, from `source` to `target`; with `overwrite` also over another registry."""

    def __init__(
        self,
        source: Engine,
        target: Engine,
        *,
        overwrite: bool = False,
        observe: Observe | None = None,
    ) -> None:
        self._source = source
        self._target = target
        self._overwrite = overwrite
        self._observe = observe or (lambda _table, _done, _total: None)

    def plan(self) -> list[CopiedTable]:
        """Check both sides and return what would be copied; servers may run meanwhile.

        Raises:
            MetadataCopyError: one side is of another version, or not empty.

        """
        with self._sentences():
            self._check()
            with _snapshot(self._source) as source:
                return [CopiedTable(table.name, _count(source, table)) for table in _tables()]

    def run(self) -> list[CopiedTable]:
        """Copy everything; return what was copied and compared.

        Raises:
            MetadataCopyError: as for `plan`, or a side is in use, or the copy is not its source.

        """
        with self._sentences():
            self._check_servers()
            self._check()
            with alone_with_schema(self._target):
                self._announce()
                with _snapshot(self._source) as source, _transaction(self._target) as target:
                    copied = self._copy(source, target)
        if self._target.dialect.name == "postgresql":
            with self._target.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
        return copied

    def _check(self) -> None:
        version = schema_version(self._source)
        if version.revision != HEAD:
            message = (
                f"the source has schema {version.revision or '(none)'} and this program {HEAD};"
                " run dtr migrate --after on the source with this version first"
            )
            raise MetadataCopyError(message)
        if schema_version(self._target).revision not in {None, COPYING} and not self._overwrite:
            message = (
                "the target holds a registry already; name an empty database, or pass"
                " --overwrite to replace that registry"
            )
            raise MetadataCopyError(message)
        self._check_strangers()

    def _check_servers(self) -> None:
        for engine, side in ((self._source, "source"), (self._target, "target")):
            if programs_connected(engine):
                message = f"servers are connected to the {side}; stop them first"
                raise MetadataCopyError(message)

    def _check_strangers(self) -> None:
        """Leave a database alone that something else made tables of our names in."""
        found = set(inspect(self._target).get_table_names())
        if _VERSION.name not in found and (ours := found & metadata.tables.keys()):
            message = f"the target has a table {min(ours)} that is not of a registry"
            raise MetadataCopyError(message)

    def _announce(self) -> None:
        """Have the target refused from now on until it is whole."""
        with _transaction(self._target) as connection:
            _VERSION.create(connection, checkfirst=True)
            connection.execute(delete(_VERSION))
            connection.execute(insert(_VERSION).values(version_num=COPYING))

    def _copy(self, source: Connection, target: Connection) -> list[CopiedTable]:
        metadata.drop_all(target)
        metadata.create_all(target)
        target.execute(update(_VERSION).values(version_num=HEAD))
        copied = [self._copy_table(source, target, table) for table in _tables()]
        for expected in copied:
            if _checksum(target, metadata.tables[expected.name]) != expected:
                message = f"the copy of the table {expected.name} differs from its source"
                raise MetadataCopyError(message)
        # Bytes that were staged may be behind what their row says: they are read again.
        target.execute(update(uploads).values(digest=None))
        for table in metadata.tables.values():
            if table.autoincrement_column is not None:
                _set_last_id(target, table.name, _last_id(source, table))
        return copied

    def _copy_table(self, source: Connection, target: Connection, table: Table) -> CopiedTable:
        total = _count(source, table)
        sums = _Checksum()

        def batches() -> Iterator[Sequence[Sequence[Any]]]:
            for batch in _batches(source, table):
                sums.add(batch)
                self._observe(table.name, sums.rows, total)
                yield batch

        if target.dialect.name == "postgresql":
            _copy_in(target, table, batches())
        else:
            for batch in batches():
                names = table.columns.keys()
                rows = [dict(zip(names, row, strict=True)) for row in batch]
                target.execute(insert(table), rows)
        return CopiedTable(table.name, sums.rows, sums.text)

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Say what a driver's error means; both sides may have raised it."""
        driver: Any = self._target.dialect.loaded_dbapi
        try:
            yield
        except (DBAPIError, driver.Error) as error:
            raise translated(self._target, error) from error


class _Checksum:
    """The sum of the digests of rows: the order, in which engines differ, does not matter."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, batch: Sequence[Sequence[Any]]) -> None:
        self.rows += len(batch)
        for row in batch:
            digest = blake2b(repr(tuple(row)).encode(), digest_size=16).digest()
            self._sum += int.from_bytes(digest)

    @property
    def text(self) -> str:
        return f"{self._sum % 2**128:032x}"


def _tables() -> Sequence[Table]:
    """Return all tables, those first that others refer to."""
    return metadata.sorted_tables


def _count(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _batches(connection: Connection, table: Table) -> Iterator[Sequence[Sequence[Any]]]:
    """Stream a table in the order of its key: a token's parent comes before it."""
    size = _MANIFESTS if table is manifests else _ROWS
    statement = select(table).order_by(*table.primary_key.columns)
    with connection.execute(statement.execution_options(yield_per=size)) as result:
        yield from result.partitions()


def _checksum(connection: Connection, table: Table) -> CopiedTable:
    sums = _Checksum()
    for batch in _batches(connection, table):
        sums.add(batch)
    return CopiedTable(table.name, sums.rows, sums.text)


def _copy_in(
    connection: Connection, table: Table, batches: Iterator[Sequence[Sequence[Any]]]
) -> None:
    """Insert by COPY, several times as fast as by INSERT."""
    quote = connection.dialect.identifier_preparer.quote
    columns = ", ".join(map(quote, table.columns.keys()))
    driver: Any = connection.connection.dbapi_connection
    dbapi: Any = connection.dialect.loaded_dbapi
    statement = f"COPY {quote(table.name)} ({columns}) FROM STDIN"
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for batch in batches:
                for row in batch:
                    copy.write_row(row)
    except dbapi.DataError as error:
        message = (
            f"the table {table.name} has a value that PostgreSQL cannot store ({error.sqlstate}), "
            "such as text with a NUL character; correct or delete that row, and copy again"
        )
        raise MetadataCopyError(message) from error


def _last_id(connection: Connection, table: Table) -> int:
    """Return the last id that was ever given, also to a row that is gone: none is given twice."""
    if connection.dialect.name == "sqlite":
        given = text("SELECT seq FROM sqlite_sequence WHERE name = :table")
    else:
        given = text("SELECT pg_sequence_last_value(pg_get_serial_sequence(:table, 'id'))")
    found = connection.execute(given, {"table": table.name}).scalar()
    return max(found or 0, connection.execute(select(func.max(table.c.id))).scalar() or 0)


def _set_last_id(connection: Connection, table: str, last: int) -> None:
    if not last:
        return
    if connection.dialect.name == "sqlite":
        values = {"table": table, "last": last}
        connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :table"), values)
        connection.execute(text("INSERT INTO sqlite_sequence VALUES (:table, :last)"), values)
    else:
        statement = text("SELECT setval(pg_get_serial_sequence(:table, 'id'), :last)")
        connection.execute(statement, {"table": table, "last": last})


@contextmanager
def _snapshot(engine: Engine) -> Iterator[Connection]:
    """Read everything as it is at one moment."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            yield _begun(connection, "PRAGMA query_only=ON", "BEGIN")
        else:
            yield _isolated(connection, "REPEATABLE READ", is_read_only=True)


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    """Commit everything, or nothing."""
    with engine.connect() as opened:
        if engine.dialect.name == "sqlite":
            connection = _begun(opened, "BEGIN IMMEDIATE", "PRAGMA defer_foreign_keys=ON")
        else:
            connection = _isolated(opened, "READ COMMITTED", is_read_only=False)
        yield connection
        connection.commit()


def _begun(connection: Connection, *statements: str) -> Connection:
    """Begin on SQLite, on a connection that nobody uses afterwards."""
    connection.detach()
    for statement in statements:
        connection.exec_driver_sql(statement)
    return connection


def _isolated(connection: Connection, level: Any, *, is_read_only: bool) -> Connection:
    """Begin on PostgreSQL, on a connection that nobody uses afterwards."""
    connection = connection.execution_options(
        isolation_level=level, postgresql_readonly=is_read_only
    )
    connection.detach()
    # Not to be taken for a process that was frozen, while the other side is read.
    connection.exec_driver_sql("SET idle_in_transaction_session_timeout = 0")
    return connection
