"""Blobs in a directory: on a local disk, or on an NFS mount that several machines share.

    ROOT/uploads/UPLOAD_ID                          staged, private
    ROOT/blobs/sha256/ab/abcd….UPLOAD_ID            committed

A commit is: verify, rename, fsync the file, fsync the directory, and only then does anybody learn
the name; with both names known, the journal of the file system is flushed once instead of twice.
The name in `blobs` begins with the digest, so that a directory without its metadata can still be
read by people, and ends with the upload's id, so that no name is used twice.

What an NFS server must give, and a default mount of Linux does (`hard`, NFS 4.1 or later):

- Close-to-open consistency. Nothing here trusts attributes that a client has cached: a name that
  is not found is looked for again after its directory was opened, which asks the server; sizes and
  inodes are taken from files that were just opened.
- Rename within the mount is atomic, and a file that was fsynced before or after it is whole.
- fsync of files and directories returns when the server has them durably (never export `async`).
- `flock` is seen by all machines; the metadata are asked again by whoever holds it.

A blob never changes under its name, so bytes that a client has cached are right. A file that is
deleted while another machine reads it may end that answer; collection deletes what nothing needs.
"""

import asyncio
import errno
import os
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import (
    ContentDamagedError,
    RegistryError,
    StorageFullError,
    StorageGoneError,
    UnavailableError,
    UnsupportedError,
    UploadUnknownError,
)
from dtr.storage.filesystem_check import check_directory
from dtr.storage.filesystem_writer import FilesystemWriter, open_shared, sync_directory
from dtr.storage.hashers import Hasher, KeptHashers
from dtr.storage.port import CHUNK_BYTES, BlobStore, BlobWriter, Capability, Progress, StoredBlob

T = TypeVar("T")

_PARTIAL = ".partial-"
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENODEV}


class FilesystemBlobStore:
    """Blobs under `root`, which is made when missing.

    `sync_every_bytes` is how much an upload may run ahead of the disk. Without `sync_uploads` a
    flushed upload survives the process and not a power cut: whoever opens the metadata after one
    must forget the digests of uploads, so that their bytes are read before they are believed.
    Uploads leave `reserve_bytes` of the disk alone: what makes room has to write, too.
    """

    capabilities = frozenset({Capability.LOCAL_PATH, Capability.LOCKS_UPLOADS})

    def __init__(
        self,
        root: Path,
        *,
        sync_every_bytes: int = 32 << 20,
        sync_uploads: bool = True,
        reserve_bytes: int = 0,
        threads: int = 8,
        observe: Callable[[str, float], None] | None = None,
    ) -> None:
        self._blobs = root / "blobs"
        self._uploads = root / "uploads"
        self.sync_every_bytes = sync_every_bytes
        self.sync_uploads = sync_uploads
        self._reserve_bytes = reserve_bytes
        self._observe = observe or (lambda _operation, _seconds: None)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="storage")
        self.hashers = KeptHashers()
        # Parents that mkdir makes by itself would be open to others.
        self._directories = (self._uploads, *(self._blobs / each for each in Algorithm))
        for directory in (root, self._blobs, *self._directories):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def resume(self, upload_id: str, algorithm: Algorithm, progress: Progress) -> BlobWriter:
        """Open and lock the staged file."""
        hasher = self.hashers.take(upload_id, algorithm, progress)
        # Two requests may commit one session, the second when the first has let go of the lock.
        nonce = secrets.token_hex(4)
        writer = FilesystemWriter(self, upload_id, progress, hasher, algorithm, nonce=nonce)
        await writer.open()
        return writer

    async def begin(self, upload_id: str, algorithm: Algorithm) -> BlobWriter:
        """Begin an upload; a small one touches the disk only when it commits."""
        return FilesystemWriter(self, upload_id, Progress(), algorithm.hasher(), algorithm)

    async def discard(
        self,
        upload_id: str,
        progress: Progress = Progress(),  # noqa: ARG002, B008 - frozen; all is under the id
    ) -> None:
        """Delete a staged file."""
        self.hashers.forget(upload_id)
        await self.run("discard", lambda: self.upload_path(upload_id).unlink(missing_ok=True))

    async def read(
        self, key: str, *, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Stream from the file in pieces of a mebibyte."""
        path = self.path(key)
        descriptor = await self.run("open", partial(_open, path))
        try:
            position = start
            while stop is None or position < stop:
                length = CHUNK_BYTES if stop is None else min(CHUNK_BYTES, stop - position)
                chunk = await self.run("read", partial(os.pread, descriptor, length, position))
                if not chunk:
                    break
                position += len(chunk)
                yield chunk
        finally:
            os.close(descriptor)
        if stop is not None and position < stop:
            raise ContentDamagedError("stored content is shorter than it was")

    async def size(self, key: str) -> int | None:
        """Return the file's size."""
        path = self.path(key)

        def stat() -> int | None:
            try:
                return path.stat().st_size
            except FileNotFoundError:
                return None

        return await self.run("stat", stat)

    async def delete(self, key: str) -> None:
        """Unlink the file; who has it open reads on."""
        await self.run("delete", lambda: self.path(key).unlink(missing_ok=True))

    async def walk(self, after: str = "") -> AsyncIterator[StoredBlob]:
        """List one directory at a time, in the order of keys, beginning after the key `after`."""
        begin = tuple(after.split("/"))
        for kind in await self.run("list", partial(_names, self._blobs)):
            for directory in await self.run("list", partial(_names, self._blobs / kind)):
                if (kind, directory) < begin[:2]:
                    continue
                place = self._blobs / kind / directory
                for found in sorted(await self.run("list", partial(_files, place))):
                    name, size, modified_at = found
                    if not name.startswith(_PARTIAL) and (kind, directory, name) > begin:
                        yield StoredBlob(f"{kind}/{directory}/{name}", size, modified_at)

    async def walk_uploads(self) -> AsyncIterator[StoredBlob]:
        """List the staged files."""
        for found in await self.run("list", partial(_files, self._uploads)):
            yield StoredBlob(*found)

    def path(self, key: str) -> Path:
        """Return the committed file's place; keys are this driver's own, so no traversal."""
        return self._blobs / key

    def local_path(self, key: str) -> Path | None:
        """Return the committed file's place, there or not."""
        return self.path(key)

    async def redirect_url(self, key: str, seconds: float) -> str:
        """Refuse: clients cannot reach the directory."""
        raise UnsupportedError(key=key, seconds=seconds)

    async def check_room(self) -> None:
        """Look at what is free above the reserve."""
        await self.run("check room", lambda: self.check_bytes(1))

    async def adopt(
        self, key: str, stream: AsyncIterator[bytes], size: int, digest: Digest
    ) -> None:
        """Write beside the place of `key`, verify, fsync, and rename."""
        target = self.path(key)
        staged = target.with_name(f"{_PARTIAL}{uuid.uuid4().hex}")
        await self.run(
            "adopt", lambda: target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        )
        file = await self.run("adopt", lambda: staged.open("wb"))
        try:
            hasher = digest.algorithm.hasher()
            async for chunk in stream:
                await self.run("write", partial(_write_hashed, file, hasher, chunk))
            if hasher.hexdigest() != digest.encoded:
                raise ContentDamagedError("content to copy has another digest", digest=str(digest))
            await self.run("adopt", partial(_place_whole, file, staged, target, size))
        finally:
            file.close()
            staged.unlink(missing_ok=True)

    async def heal(self, key: str, size: int, digest: Digest) -> bool:  # noqa: ARG002
        """Return False: there is one copy of everything."""
        return False

    async def check(self) -> None:
        """Touch the staging directory, and look whether the others are there.

        Raises:
            StorageGoneError: one is missing, or this user may not use it any more.

        """
        await self.run("check", self._look)

    def _look(self) -> None:
        try:
            os.utime(self._uploads)
            for directory in self._directories:
                directory.stat()
        except OSError as error:
            if error.errno not in _GONE:
                raise
            message = f"a directory of the blob storage is gone: {error.strerror}"
            raise StorageGoneError(message) from error

    async def check_by_use(self) -> None:
        """Go through everything that an upload, a download and collection do."""
        await self.run("check", lambda: check_directory(self._uploads))

    async def close(self) -> None:
        """Finish what threads are doing."""
        self._threads.shutdown()

    async def run(self, operation: str, call: Callable[[], T]) -> T:
        """Run `call` on a storage thread; operating system errors end here."""
        started = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except OSError as error:
            raise translated(error) from error
        finally:
            self._observe(operation, time.perf_counter() - started)

    def upload_path(self, upload_id: str) -> Path:
        """Return where an upload is staged."""
        return self._uploads / upload_id

    def check_bytes(self, size: int) -> None:
        """Raise `StorageFullError` where `size` bytes more would go into the reserve."""
        if not self._reserve_bytes:
            return
        found = os.statvfs(self._uploads)
        if found.f_bavail * found.f_frsize < self._reserve_bytes + size:
            raise StorageFullError

    def free_bytes(self) -> int:
        """Return how many bytes uploads may still take, and not less than none."""
        found = os.statvfs(self._uploads)
        return max(0, found.f_bavail * found.f_frsize - self._reserve_bytes)

    def capacity(self) -> tuple[int, int]:
        """Return how many bytes the disk has, and how many are free."""
        found = os.statvfs(self._uploads)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    async def remove_partial(self, before: float) -> None:
        """Delete copies that a crash cut short, last written before this time."""

        def remove() -> None:
            for path in self._blobs.glob(f"*/*/{_PARTIAL}*"):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < before:
                        path.unlink()

        await self.run("remove", remove)

    async def put_aside(self, key: str) -> None:
        """Take bytes that are wrong out of the blobs, for people to look at: `ROOT/damaged`."""

        def move() -> None:
            aside = self._blobs.parent / "damaged"
            aside.mkdir(exist_ok=True, mode=0o700)
            with suppress(FileNotFoundError):
                self.path(key).rename(aside / key.replace("/", "."))

        await self.run("put aside", move)

    def place(self, staged: Path, key: str) -> None:
        """Rename a staged file to `key`, which nobody knows yet."""
        target = self._blobs / key
        try:
            staged.rename(target)
        except FileNotFoundError:
            if not staged.exists():
                raise UploadUnknownError from None
            target.parent.mkdir(exist_ok=True, mode=0o700)
            sync_directory(target.parent.parent)
            staged.rename(target)

    def sync_place(self, key: str) -> None:
        """Make the name of `key` durable."""
        sync_directory((self._blobs / key).parent)


def translated(error: OSError) -> RegistryError:
    """Return what an operating system's error means to the registry."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFullError()
    return UnavailableError(
        f"the blobs cannot be read or written: {error.strerror or 'the disk failed'}"
    )


def _write_hashed(file: BinaryIO, hasher: Hasher, chunk: bytes) -> None:
    hasher.update(chunk)
    file.write(chunk)


def _place_whole(file: BinaryIO, staged: Path, target: Path, size: int) -> None:
    file.flush()
    if os.fstat(file.fileno()).st_size != size:
        raise ContentDamagedError("the content to copy has another size than expected")
    os.fsync(file.fileno())
    staged.rename(target)
    for directory in (target.parent, target.parent.parent, target.parent.parent.parent):
        sync_directory(directory)


def _open(path: Path) -> int:
    try:
        return open_shared(path, os.O_RDONLY)
    except FileNotFoundError:
        raise ContentDamagedError("stored content is missing") from None


def _names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(directory) if entry.is_dir())


def _files(directory: Path) -> list[tuple[str, int, float]]:
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                stat = entry.stat()
                found.append((entry.name, stat.st_size, stat.st_mtime))
    return found


if TYPE_CHECKING:
    _: type[BlobStore] = FilesystemBlobStore
