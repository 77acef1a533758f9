"""What the filesystem driver does with the disk itself."""

import asyncio
import errno
import fcntl
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.crash.disks import small_disk

from dtr.model.digest import Digest
from dtr.model.errors import (
    DigestInvalidError,
    RegistryError,
    StorageFullError,
    UnavailableError,
    UploadUnknownError,
)
from dtr.storage import BlobWriter, FilesystemBlobStore, Progress
from dtr.testing.blobs import CONTENT, SHA256, committed, new_upload, pull, push, stage, staged


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FilesystemBlobStore]:
    """Give a store that is closed afterwards."""
    store = FilesystemBlobStore(tmp_path)
    yield store
    await store.close()


@pytest.fixture
async def twin(store: FilesystemBlobStore, tmp_path: Path) -> AsyncIterator[FilesystemBlobStore]:
    """Give another opening of the same directory: another process."""
    twin = FilesystemBlobStore(tmp_path)
    yield twin
    await twin.close()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """Record what the operating system is asked to do, in order, and below which path."""
    found: list[tuple[str, str]] = []

    def name(target: Any) -> str:
        link = f"/proc/self/fd/{target}"
        path = Path(link).readlink() if isinstance(target, int) else Path(target)
        return str(path.relative_to(tmp_path) if path.is_relative_to(tmp_path) else path)

    def watch(call: str) -> None:
        real = getattr(os, call)

        def watched(target: Any, *rest: Any, **options: Any) -> Any:
            place = name(target)
            result = real(target, *rest, **options)
            found.append((call, place))
            return result

        monkeypatch.setattr(os, call, watched)

    for call in ("write", "fsync", "rename", "mkdir", "ftruncate"):
        watch(call)
    return found


async def test_a_commit_is_durable_in_the_right_order(
    store: FilesystemBlobStore, calls: list[tuple[str, str]]
) -> None:
    """All bytes, then the name, both synced before anybody learns it, and new directories too."""
    upload_id, digest = new_upload(), Digest.of(CONTENT)
    key = await push(store, CONTENT, upload_id=upload_id)
    place = f"blobs/sha256/{digest.encoded[:2]}"
    assert [call for call in calls if call[0] != "ftruncate"] == [
        ("write", f"uploads/{upload_id}"),
        ("mkdir", place),
        ("fsync", "blobs/sha256"),
        ("rename", f"uploads/{upload_id}"),
        ("fsync", f"blobs/{key}"),
        ("fsync", place),
    ]


async def test_a_second_commit_makes_no_directory(
    store: FilesystemBlobStore, calls: list[tuple[str, str]]
) -> None:
    """Two syncs are what a blob costs."""
    await push(store, CONTENT)
    calls.clear()
    await push(store, CONTENT)
    kinds = [call for call, _ in calls if call not in {"write", "ftruncate"}]
    assert kinds == ["rename", "fsync", "fsync"]


async def test_a_flush_is_durable(store: FilesystemBlobStore, calls: list[tuple[str, str]]) -> None:
    """What is recorded as progress has been synced after its last byte was written."""
    upload_id = new_upload()
    writer, _ = await stage(store, CONTENT, upload_id)
    assert calls[-1] == ("fsync", f"uploads/{upload_id}")
    await writer.cancel()


async def test_a_flush_survives_the_process_only_where_that_is_enough(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    """Without `sync_uploads` nothing is synced before the commit."""
    store = FilesystemBlobStore(tmp_path, sync_uploads=False)
    writer, _ = await stage(store, CONTENT)
    assert [call for call, _ in calls if call == "fsync"] == []
    await writer.commit(Digest.of(CONTENT))
    assert [call for call, _ in calls if call == "fsync"] == ["fsync"] * 3
    await store.close()


async def test_a_failed_sync_is_not_a_commit(
    store: FilesystemBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that the disk refused are taken away, whatever name they had."""
    writer, progress = await stage(store, CONTENT)

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(UnavailableError):
            await writer.commit(Digest.of(CONTENT))
    assert progress.offset == len(CONTENT)
    assert await committed(store) == {}
    await writer.cancel()
    assert await staged(store) == {}


@pytest.mark.parametrize("act", ["flush", "commit", "cancel", "close"])
async def test_a_stale_writer_does_not_touch_a_committed_blob(
    store: FilesystemBlobStore, twin: FilesystemBlobStore, act: str
) -> None:
    """A writer that does not hold the file yet finds that another one finished the upload."""
    upload_id = new_upload()
    stale = await store.begin(upload_id, SHA256)
    await stale.append(b"stale")
    key = await push(twin, CONTENT, upload_id=upload_id)
    match act:
        case "flush":
            await stale.flush()
        case "commit":
            other = await stale.commit(Digest.of(b"stale"))
            assert await pull(store, other) == b"stale"
        case "cancel":
            await stale.cancel()
    await stale.close()
    await store.discard(upload_id)
    assert await pull(store, key) == CONTENT


async def test_a_commit_between_open_and_lock_is_noticed(
    store: FilesystemBlobStore, twin: FilesystemBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor of a file that became a blob a moment ago is let go of untouched."""
    upload_id = new_upload()
    writer, progress = await stage(store, CONTENT, upload_id)
    await writer.close()
    target = store.path("sha256/aa/target")
    target.parent.mkdir()
    real = fcntl.flock

    def commit_first(descriptor: int, operation: int) -> None:
        store.upload_path(upload_id).rename(target)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", commit_first)
    with pytest.raises(UploadUnknownError):
        await twin.resume(upload_id, SHA256, Progress(10))
    assert target.read_bytes() == CONTENT
    assert progress.offset == len(CONTENT)


async def test_a_kept_hash_state_is_not_believed_against_the_record(
    store: FilesystemBlobStore, twin: FilesystemBlobStore
) -> None:
    """Another process wrote other bytes of the same length: the old digest does not commit them.

    Believing the state would have put foreign bytes under a digest, for everybody to pull.
    """
    upload_id, first, second = new_upload(), b"first" * 100, b"other" * 100
    writer, _ = await stage(store, first, upload_id)
    await writer.close()
    writer, progress = await stage(twin, second, upload_id)
    await writer.close()
    writer = await store.resume(upload_id, SHA256, progress)
    with pytest.raises(DigestInvalidError):
        await writer.commit(Digest.of(first))
    key = await writer.commit(Digest.of(second))
    assert await pull(store, key) == second


async def test_a_full_disk_is_said_and_gives_its_room_back(tmp_path: Path) -> None:
    """An upload that does not fit keeps what was recorded of it and nothing more."""
    with small_disk(tmp_path / "disk", 2) as disk:
        store = FilesystemBlobStore(disk.path)
        upload_id = new_upload()
        writer, progress = await stage(store, CONTENT, upload_id)
        with pytest.raises(StorageFullError):
            await _append_much(writer)
        await writer.close()
        assert await staged(store) == {upload_id: progress.offset}
        with pytest.raises(StorageFullError):
            await push(store, bytes(4 << 20))
        for upload in set(await staged(store)) - {upload_id}:
            await store.discard(upload)
        await push(store, bytes(1 << 20))
        writer = await store.resume(upload_id, SHA256, progress)
        assert await pull(store, await writer.commit(Digest.of(CONTENT))) == CONTENT
        await store.close()


async def _append_much(writer: BlobWriter) -> None:
    for _ in range(8):
        await writer.append(bytes(1 << 20))


async def test_reading_goes_on_while_the_disk_is_full(tmp_path: Path) -> None:
    """A full disk stops pushes only, and a delete makes room."""
    with small_disk(tmp_path / "disk", 2) as disk:
        store = FilesystemBlobStore(disk.path)
        key, other = await push(store, CONTENT), await push(store, bytes(1 << 20))
        disk.fill()
        with pytest.raises(StorageFullError):
            await push(store, bytes(1 << 20))
        assert await pull(store, key) == CONTENT
        await store.check()
        await store.delete(other)
        await store.discard(next(iter(await staged(store))))
        assert await pull(store, await push(store, bytes(500_000))) == bytes(500_000)
        await store.close()


@pytest.mark.parametrize("gone", ["uploads", "blobs"])
async def test_storage_that_is_gone_is_unavailable(
    store: FilesystemBlobStore, tmp_path: Path, gone: str
) -> None:
    """An unmounted disk is an error of the registry's own, whatever is asked."""
    key = await push(store, CONTENT)
    (tmp_path / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(RegistryError):
        await push(store, b"more")
    if gone == "uploads":
        with pytest.raises(UnavailableError):
            await store.check()
        with pytest.raises(UnavailableError):
            await staged(store)
    else:
        with pytest.raises(UnavailableError):
            await pull(store, key)
        with pytest.raises(UnavailableError):
            await committed(store)


async def test_nobody_else_may_look(tmp_path: Path) -> None:
    """Directories are 0700 and files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        store = FilesystemBlobStore(tmp_path)
        writer, _ = await stage(store, CONTENT)
        await push(store, CONTENT)
    finally:
        os.umask(before)
    found = _modes(tmp_path)
    assert len(found) == 7
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in found.items())
    await writer.cancel()
    await store.close()


def _modes(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_mode & 0o777 for path in directory.rglob("*")}


async def test_a_killed_process_leaves_what_can_go_on(
    store: FilesystemBlobStore, tmp_path: Path
) -> None:
    """Its lock is gone with it; bytes that it recorded are there, later ones are dropped."""
    upload_id = new_upload()
    script = f"""
import asyncio, os, signal
from pathlib import Path
from dtr.model.digest import Algorithm
from dtr.storage import FilesystemBlobStore, Progress
async def main():
    store = FilesystemBlobStore(Path({str(tmp_path)!r}))
    writer = await store.resume({upload_id!r}, Algorithm.SHA256, Progress())
    await writer.append(b"a" * 1000)
    await writer.flush()
    await writer.append(b"b" * (2 << 20))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await process.wait() == -9
    assert (await staged(store))[upload_id] >= 1000
    writer = await store.resume(upload_id, SHA256, Progress(1000))
    key = await writer.commit(Digest.of(b"a" * 1000))
    assert await pull(store, key) == b"a" * 1000


async def test_a_blob_is_as_old_as_its_commit(store: FilesystemBlobStore) -> None:
    """A sweep goes by age: an upload that rested for a day is not old when it commits."""
    upload_id = new_upload()
    writer, progress = await stage(store, CONTENT, upload_id)
    await writer.close()
    os.utime(store.upload_path(upload_id), (0, 0))
    writer = await store.resume(upload_id, SHA256, progress)
    await writer.commit(Digest.of(CONTENT))
    times = [blob.modified_at async for blob in store.walk()]
    assert times[0] > time.time() - 60


async def test_whoever_has_a_blob_open_reads_on(store: FilesystemBlobStore) -> None:
    """A delete does not cut a pull that is under way."""
    content = os.urandom(3 << 20)
    key = await push(store, content)
    reader = store.read(key)
    first = await anext(reader)
    await store.delete(key)
    assert first + b"".join([chunk async for chunk in reader]) == content


async def test_a_truncated_file_is_damage(store: FilesystemBlobStore) -> None:
    """A stream that promised more bytes ends with an error, never short."""
    key = await push(store, CONTENT)
    os.truncate(store.path(key), 1000)
    assert await store.size(key) == 1000
    with pytest.raises(RegistryError, match="shorter"):
        await pull(store, key, stop=len(CONTENT))
