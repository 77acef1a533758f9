"""A server does not serve from a storage that is not its registry's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete
from tests.support.server import RunningServer

from dtr.collect.check import Checker
from dtr.database import SqliteDatabase, Writer, open_database
from dtr.database.migrate import migrate
from dtr.database.schema import settings
from dtr.model.errors import InvalidError
from dtr.server.recognition import recognise
from dtr.storage import FilesystemBlobStore
from dtr.storage.memory import MemoryBlobStore


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    """Give the metadata of a registry that has not started yet."""
    database = open_database(tmp_path / "dtr.db", wait_seconds=5)
    migrate(database.engine)
    yield database
    database.close()


async def test_a_storage_is_recognised_again(database: SqliteDatabase) -> None:
    """The mark is made once, and nothing takes it for garbage or damage."""
    store = MemoryBlobStore()
    await recognise(database, store, "")
    marked = dict(store.committed)
    assert len(marked) == 1
    await recognise(database, store, "")
    checker = Checker(database, store, repair=True, verify=True, young_seconds=0)
    assert [finding async for finding in checker.findings()] == []
    assert store.committed == marked


async def test_another_storage_is_refused(database: SqliteDatabase) -> None:
    """The sentence names it, and says what to do; nothing is left in it."""
    await recognise(database, MemoryBlobStore(), "")
    other = MemoryBlobStore()
    with pytest.raises(InvalidError, match=r"s3://other/.*dtr storage copy"):
        await recognise(database, other, "s3://other/")
    assert other.committed == {}


async def test_a_lost_mark_that_fsck_has_found_is_made_again(database: SqliteDatabase) -> None:
    """Whoever repairs says that the bytes are lost: the registry goes on without them."""
    store = MemoryBlobStore()
    await recognise(database, store, "")
    store.committed.clear()
    with pytest.raises(InvalidError):
        await recognise(database, store, "")
    checker = Checker(database, store, repair=True, young_seconds=0)
    assert [finding.repaired async for finding in checker.findings()] == [True]
    await recognise(database, store, "")
    assert len(store.committed) == 1


async def test_a_registry_without_a_mark_is_known_by_its_blobs(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    """One of an earlier version, started on another storage, is refused before it is marked."""
    store = FilesystemBlobStore(tmp_path)
    await recognise(database, store, "")
    database.write_now(forget_mark)
    with pytest.raises(InvalidError):
        await recognise(database, MemoryBlobStore(), "")
    await recognise(database, store, "")
    await store.close()


def forget_mark(writer: Writer) -> None:
    """Make the metadata those of a version that made no marks."""
    writer.execute(delete(settings).where(settings.c.key == "storage.mark"))


@pytest.mark.server
def test_a_server_on_another_storage_does_not_start(tmp_path: Path) -> None:
    """It ends with one sentence, and the right one starts again."""
    with RunningServer(tmp_path) as server:
        server.stop()
        (tmp_path / "other").mkdir()
        wrong = RunningServer(
            tmp_path, environment={"DTR_STORAGE__URL": f"file://{tmp_path / 'other'}"}
        )
        with pytest.raises(RuntimeError, match="not the one that holds this registry's blobs"):
            wrong.start()
        server.start()
