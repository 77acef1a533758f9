"""A registry's blobs are copied to another storage, whole and under their keys."""

import os
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import pytest

from dtr.database import Database
from dtr.model.digest import Digest
from dtr.model.errors import UnavailableError
from dtr.registry import records
from dtr.registry.records import Blob
from dtr.storage import BlobStore, FilesystemBlobStore
from dtr.storage.memory import MemoryBlobStore
from dtr.testing.blobs import committed, pull, push
from dtr.testing.registry import open_state
from dtr.transfer.blobs import BlobCopy, BlobsCopied


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[FilesystemBlobStore]:
    """Give the storage to copy from."""
    store = FilesystemBlobStore(tmp_path / "source")
    yield store
    await store.close()


@pytest.fixture
async def database(tmp_path: Path, source: BlobStore) -> AsyncIterator[Database]:
    """Give metadata."""
    database = open_state(tmp_path, store=source).database
    yield database
    database.close()


async def add(database: Database, store: BlobStore, content: bytes) -> Blob:
    """Put a blob into storage and metadata."""
    blob = Blob(Digest.of(content), len(content), await push(store, content))
    await database.write(records.store_blob, blob, 1.0)
    return blob


async def copy(database: Database, source: BlobStore, target: BlobStore) -> BlobsCopied:
    """Copy everything."""
    return await BlobCopy(database, source, target).run()


async def test_every_blob_is_copied_once(
    database: Database, source: FilesystemBlobStore, tmp_path: Path
) -> None:
    """Under its key; a second run finds it there and brings what is new."""
    target = FilesystemBlobStore(tmp_path / "target")
    blobs = [await add(database, source, os.urandom(size)) for size in (0, 10, 3 << 20)]
    plan = await BlobCopy(database, source, target, is_dry_run=True).run()
    assert (plan.copied, await committed(target)) == (3, {})
    seen: list[int] = []
    copying = BlobCopy(database, source, target)
    assert await copying.total() == (3, 10 + (3 << 20))
    done = await copying.run(seen.append)
    assert (done.copied, done.copied_bytes, done.present) == (3, 10 + (3 << 20), 0)
    assert sum(seen) == done.copied_bytes
    blobs.append(await add(database, source, b"new"))
    again = await copy(database, source, target)
    assert (again.copied, again.present) == (1, 3)
    assert await committed(target) == {blob.storage_key: blob.size for blob in blobs}
    for blob in blobs:
        assert Digest.of(await pull(target, blob.storage_key)) == blob.digest
    await target.close()


async def test_what_was_cut_off_is_copied_again(
    database: Database, source: FilesystemBlobStore
) -> None:
    """A file of another size is not taken for the blob."""
    target = MemoryBlobStore()
    blob = await add(database, source, b"content")
    target.committed[blob.storage_key] = (b"cont", 0.0)
    assert (await copy(database, source, target)).copied == 1
    assert await pull(target, blob.storage_key) == b"content"


async def test_damage_is_reported_and_not_copied(
    database: Database, source: FilesystemBlobStore
) -> None:
    """Missing, short, or with another digest: all others are copied."""
    target = MemoryBlobStore()
    blobs = [await add(database, source, b"blob %d" % number) for number in range(4)]
    source.path(blobs[0].storage_key).unlink()
    source.path(blobs[1].storage_key).write_bytes(b"blob")
    source.path(blobs[2].storage_key).write_bytes(b"glob 2")
    done = await copy(database, source, target)
    assert sorted(done.damaged) == sorted(str(blob.digest) for blob in blobs[:3])
    assert await committed(target) == {blobs[3].storage_key: 6}
    assert asdict(done)["copied"] == 1


async def test_a_target_that_fails_for_a_moment_is_asked_again(
    database: Database, source: FilesystemBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that fails for good ends the copy with what it said."""

    class Failing(MemoryBlobStore):
        times = 2

        async def adopt(
            self, key: str, stream: AsyncIterator[bytes], size: int, digest: Digest
        ) -> None:
            self.times -= 1
            if self.times >= 0:
                raise UnavailableError("no answer")
            await super().adopt(key, stream, size, digest)

    monkeypatch.setattr("dtr.transfer.blobs._PAUSE_SECONDS", 0.001)
    blob = await add(database, source, b"content")
    target = Failing()
    assert (await copy(database, source, target)).copied == 1
    assert await committed(target) == {blob.storage_key: 7}
    target = Failing()
    target.times = 99
    with pytest.raises(UnavailableError, match="no answer"):
        await copy(database, source, target)
