"""Metadata that moves between engines: all of it, or a target that nobody serves."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select, text, update
from tests.support.postgresql import RunningPostgresql, temporary_database
from tests.transfer.content import account, fill

from dtr.database import Database, open_database, open_postgresql
from dtr.database.migrate import SchemaVersionError, check_schema, migrate, schema_version
from dtr.database.schema import accounts, manifests, metadata, tokens, uploads
from dtr.transfer.metadata import MetadataCopy, MetadataCopyError

pytestmark = pytest.mark.postgresql

Open = Callable[[str], Engine]
WAYS = [("sqlite", "postgresql"), ("postgresql", "sqlite"), ("postgresql", "postgresql")]


@pytest.fixture(scope="module")
def templates(
    postgresql: RunningPostgresql, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Give a registry on each engine, for tests to copy."""
    file = tmp_path_factory.mktemp("template") / "dtr.db"
    with temporary_database(postgresql) as url:
        for database in (open_database(file), open_postgresql(url)):
            migrate(database.engine)
            fill(database.engine)
            database.close()
        yield {"sqlite": str(file), "postgresql": url.rpartition("/")[2]}


@pytest.fixture
def new(
    postgresql: RunningPostgresql, templates: dict[str, str], tmp_path: Path
) -> Iterator[Callable[..., Engine]]:
    """Give what opens a database that only this test knows."""
    with ExitStack() as stack:

        def opened(kind: str, *, is_filled: bool) -> Engine:
            database: Database
            if kind == "sqlite":
                file = tmp_path / f"{len(list(tmp_path.iterdir()))}.db"
                if is_filled:
                    shutil.copy(templates[kind], file)
                database = open_database(file)
            else:
                template = templates[kind] if is_filled else None
                url = stack.enter_context(temporary_database(postgresql, template))
                database = open_postgresql(url)
            stack.callback(database.close)
            return database.engine

        yield opened


@pytest.fixture
def empty(new: Callable[..., Engine]) -> Open:
    """Give what opens a new, empty database."""
    return partial(new, is_filled=False)


@pytest.fixture
def filled(new: Callable[..., Engine]) -> Open:
    """Give what opens a registry of this test's own."""
    return partial(new, is_filled=True)


def everything(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows, but for what a copy changes: digests of staged bytes are forgotten."""
    with engine.connect() as connection:
        return {
            name: sorted((tuple(row) for row in connection.execute(select(table))), key=str)
            for name, table in metadata.tables.items()
            if table is not uploads
        }


@pytest.mark.parametrize(("one", "other"), WAYS)
def test_every_row_of_every_table_arrives(filled: Open, empty: Open, one: str, other: str) -> None:
    """With the same values and ids; the target is then a registry like any other."""
    source, target = filled(one), empty(other)
    observed: dict[str, tuple[int, int]] = {}

    def observe(table: str, done: int, total: int) -> None:
        observed[table] = (done, total)

    planned = MetadataCopy(source, target).plan()
    assert schema_version(target).revision is None
    copied = MetadataCopy(source, target, observe=observe).run()
    assert everything(source) == everything(target)
    check_schema(target)
    assert migrate(target) == []
    assert {table.name: table.rows for table in copied} == {t.name: t.rows for t in planned}
    assert observed["tags"] == (90, 90)


@pytest.mark.parametrize(("one", "other"), WAYS)
def test_no_id_is_given_twice(filled: Open, empty: Open, one: str, other: str) -> None:
    """Not even that of a row that was deleted before: bearer tokens remember ids."""
    source, target = filled(one), empty(other)
    MetadataCopy(source, target).run()
    with target.begin() as connection:
        new = insert(tokens).values(
            account_id=7, kind="access", secret_hash="new", label="", level=1, created_at=1.0
        )
        assert connection.execute(new.returning(tokens.c.id)).scalar() == 100
        values = account(0, "new")
        del values["id"]
        row = insert(accounts).values(values).returning(accounts.c.id)
        assert connection.execute(row).scalar() == 8


def test_bytes_of_open_uploads_are_read_again(filled: Open, empty: Open) -> None:
    """The row may know more than the disk kept."""
    target = empty("postgresql")
    MetadataCopy(filled("sqlite"), target).run()
    with target.connect() as connection:
        assert connection.execute(select(uploads.c.offset, uploads.c.digest)).all() == [(5, None)]


@pytest.mark.parametrize("other", ["postgresql", "sqlite"])
def test_a_copy_that_was_cut_off_is_not_served_and_begins_anew(
    filled: Open, empty: Open, other: str
) -> None:
    """Wherever it was cut off."""
    source, target = filled("postgresql"), empty(other)
    for place in ("accounts", "manifests", "tags"):

        def interrupt(table: str, _done: int, _total: int, place: str = place) -> None:
            if table == place:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            MetadataCopy(source, target, observe=interrupt).run()
        for use in (check_schema, migrate):
            with pytest.raises(SchemaVersionError, match="copy that was not finished"):
                use(target)
    MetadataCopy(source, target).run()
    assert everything(source) == everything(target)


@pytest.mark.parametrize("other", ["postgresql", "sqlite"])
def test_another_registry_is_replaced_only_when_asked(
    filled: Open, empty: Open, other: str
) -> None:
    """And the other one stays until the copy is whole."""
    source, target = filled("sqlite"), empty(other)
    migrate(target)
    with target.begin() as connection:
        connection.execute(insert(accounts).values(account(1, "other")))
    with pytest.raises(MetadataCopyError, match="--overwrite"):
        MetadataCopy(source, target).run()
    with target.connect() as connection:
        assert connection.execute(select(accounts.c.name)).scalars().all() == ["other"]
    MetadataCopy(source, target, overwrite=True).run()
    assert everything(source) == everything(target)


def test_tables_of_something_else_are_left_alone(filled: Open, empty: Open) -> None:
    """Also when overwriting is asked for."""
    target = empty("postgresql")
    with target.begin() as connection:
        connection.execute(text("CREATE TABLE accounts (money numeric)"))
    with pytest.raises(MetadataCopyError, match="accounts that is not of a registry"):
        MetadataCopy(filled("sqlite"), target, overwrite=True).run()


def test_a_source_of_another_version_is_refused(filled: Open, empty: Open) -> None:
    """It is brought to this version first."""
    source = filled("sqlite")
    with source.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    with pytest.raises(MetadataCopyError, match="schema 0001"):
        MetadataCopy(source, empty("postgresql")).plan()


def test_a_database_in_use_is_refused(filled: Open, empty: Open) -> None:
    """What a server wrote during the copy would be lost, on either side; to look is allowed."""
    shared, file = filled("postgresql"), filled("sqlite")
    with shared.connect(), pytest.raises(MetadataCopyError, match="connected to the source"):
        MetadataCopy(shared, empty("sqlite")).run()
    with shared.connect():
        assert MetadataCopy(shared, empty("sqlite")).plan()
    target = empty("postgresql")
    with target.connect(), pytest.raises(MetadataCopyError, match="connected to the target"):
        MetadataCopy(file, target).run()


def test_what_postgresql_cannot_keep_is_said(filled: Open, empty: Open) -> None:
    """SQLite's texts may have a NUL character."""
    source, target = filled("sqlite"), empty("postgresql")
    with source.begin() as connection:
        connection.execute(update(manifests).values(artifact_type="a\0b"))
    with pytest.raises(MetadataCopyError, match=r"manifests.*NUL"):
        MetadataCopy(source, target).run()
