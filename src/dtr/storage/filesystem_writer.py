"""One upload on its way to the disk: receiving, hashing and writing overlap."""

import asyncio
import fcntl
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import (
    DigestInvalidError,
    RegistryError,
    UploadBusyError,
    UploadUnknownError,
)
from dtr.storage.hashers import Hasher
from dtr.storage.pieces import Pieces, add_piece
from dtr.storage.port import CHUNK_BYTES, BlobWriter, Progress

if TYPE_CHECKING:
    from dtr.storage.filesystem import FilesystemBlobStore


class FilesystemWriter:
    """Gathers a mebibyte, hands it to a thread, and gathers the next while that one is written.

    The staged file is held with an exclusive `flock`, which the kernel drops with the process.
    `check` may refuse the file when it is held, before anything in it is changed. `nonce` makes the
    key this writer's own, where others may commit under the same id.
    """

    def __init__(
        self,
        store: "FilesystemBlobStore",
        upload_id: str,
        progress: Progress,
        hasher: Hasher | None,
        algorithm: Algorithm,
        check: Callable[[int], None] = lambda _descriptor: None,
        nonce: str = "",
    ) -> None:
        self._store = store
        self._check = check
        self._upload_id = upload_id
        self._key_end = f"{upload_id}.{nonce}" if nonce else upload_id
        self._path = store.upload_path(upload_id)
        self._algorithm = algorithm
        self._hasher = hasher
        self._known = progress
        self._offset = self._written = self._sync_asked = progress.offset
        self._durable = progress.offset
        self._descriptor: int | None = None
        self._gathered: Pieces = []
        self._gathered_bytes = 0
        self._writing: asyncio.Task[None] | None = None
        self._syncing: asyncio.Task[None] | None = None
        self._deciding: asyncio.Task[None] | None = None
        self._is_open = True
        self._is_flushed = True
        self._has_begun = False
        self._key = ""

    @property
    def offset(self) -> int:
        """Bytes taken so far."""
        return self._offset

    @property
    def holders(self) -> tuple[str, ...]:
        """Nobody in particular: whoever reaches the storage has it."""
        return ()

    async def open(self) -> None:
        """Take hold of the staged file now, instead of with the first bytes; change nothing."""
        await self._run("open", self._hold)

    async def append(self, chunk: bytes) -> None:
        """Gather; wait only for the mebibyte before the one that is gathered."""
        add_piece(self._gathered, chunk)
        self._gathered_bytes += len(chunk)
        self._offset += len(chunk)
        self._is_flushed = False
        if self._gathered_bytes >= CHUNK_BYTES:
            await self._settle()
            self._writing = asyncio.create_task(self._store.run("write", self._next_write()))
            await self._sync_behind()

    async def flush(self) -> Progress:
        """Write everything, and fsync it where that is asked for."""
        await self._settle(everything=True)
        write = self._next_write()

        def flush() -> None:
            write()
            self._begin()
            if self._store.sync_uploads:
                os.fsync(self._file)

        await self._run("flush", flush)
        self._durable = self._offset
        self._is_flushed = True
        return Progress(self._offset, self._digest())

    async def recorded(self) -> None:
        """Nothing was replaced: the staged file only grows."""

    async def commit(self, digest: Digest) -> str:
        """Verify, rename, fsync file and directory."""
        await self._settle(everything=True)
        write = self._next_write()
        key = f"{digest.algorithm}/{digest.encoded[:2]}/{digest.encoded}.{self._key_end}"

        def commit() -> None:
            write()
            self._begin()
            self._verify(digest)
            # A sweep takes bytes that no metadata knows by their age, which begins here.
            os.utime(self._file)
            self._store.place(self._path, key)
            try:
                os.fsync(self._file)
                self._store.sync_place(key)
            except OSError:
                self._store.path(key).unlink(missing_ok=True)
                raise
            self._is_flushed = True

        await self._run("commit", commit)
        self._hasher, self._key = None, key
        await self.close()
        return key

    async def withdraw(self) -> None:
        """Unlink the committed file, whose name is this writer's alone."""
        await self._store.delete(self._key)

    async def close(self) -> None:
        """Drop the lock; keep the hash state where it covers what is flushed.

        Bytes that are not durable are cut off: nobody can resume after them, and on a full disk
        their room is what is missing.
        """
        if not self._is_open:
            return
        self._is_open = False
        # A thread that is still at work would find the descriptor closed, or somebody else's.
        tasks = (self._writing, self._syncing, self._deciding)
        under_way = [task for task in tasks if task is not None]
        await asyncio.gather(*under_way, return_exceptions=True)
        if self._hasher is not None and self._is_flushed:
            self._store.hashers.keep(self._upload_id, self._offset, self._hasher)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            if self._has_begun and not self._is_flushed:
                with suppress(RegistryError):
                    await self._store.run("cut", lambda: os.ftruncate(descriptor, self._durable))
        finally:
            os.close(descriptor)

    async def cancel(self) -> None:
        """Delete the staged file."""
        if self._is_open:
            self._hasher = None
            await self.close()
            await self._store.discard(self._upload_id)

    async def _run(self, operation: str, call: Callable[[], None]) -> None:
        """Run `call` on a storage thread; `close` waits for it also where this was cancelled."""
        self._deciding = asyncio.create_task(self._store.run(operation, call))
        await asyncio.shield(self._deciding)

    async def _settle(self, *, everything: bool = False) -> None:
        """Wait for the write under way, and for the disk if `everything`; raise what they met.

        What failed stays, so that nothing is flushed or committed around a hole.
        """
        if self._writing is not None:
            await asyncio.shield(self._writing)
        if everything and self._syncing is not None:
            await asyncio.shield(self._syncing)

    async def _sync_behind(self) -> None:
        """Keep the disk busy while bytes arrive, so that the last fsync has little left to do."""
        if self._written - self._sync_asked < self._store.sync_every_bytes:
            return
        if self._syncing is not None:
            if not self._syncing.done():
                return
            await self._syncing
        self._sync_asked = self._written
        self._syncing = asyncio.create_task(
            self._store.run("sync", lambda: os.fdatasync(self._file))
        )

    def _next_write(self) -> Callable[[], None]:
        """Return the call that writes what is gathered; it runs on a storage thread."""
        pieces, self._gathered, self._gathered_bytes = self._gathered, [], 0

        def write() -> None:
            if not pieces:
                return
            self._begin()
            content = memoryview(b"".join(pieces))
            self._store.check_bytes(len(content))
            if self._hasher is not None:
                self._hasher.update(content)
            while content:
                count = os.write(self._file, content)
                content = content[count:]
                self._written += count

        return write

    @property
    def _file(self) -> int:
        if self._descriptor is None:
            raise UploadUnknownError("the upload is not open")
        return self._descriptor

    def _begin(self) -> None:
        """Cut the staged file to what is known of it, before the first change to it."""
        if self._has_begun:
            return
        self._hold()
        os.ftruncate(self._file, self._known.offset)
        os.lseek(self._file, self._known.offset, os.SEEK_SET)
        self._has_begun = True

    def _hold(self) -> None:
        """Open and lock the staged file."""
        if self._descriptor is not None:
            return
        start = self._known.offset
        flags = os.O_RDWR | (0 if start else os.O_CREAT)
        try:
            descriptor = open_shared(self._path, flags)
        except FileNotFoundError:
            raise UploadUnknownError from None
        try:
            self._take_lock(descriptor)
            if os.fstat(descriptor).st_size < start:
                raise UploadUnknownError  # noqa: TRY301 - the descriptor is closed below
            self._check(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _take_lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UploadBusyError from None
        # Whoever held the lock may have committed: the file is then a blob and not ours to touch.
        # Opened, not asked for by name: a client of NFS may answer that without its server.
        try:
            found = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UploadUnknownError from None
        try:
            is_staged = os.path.samestat(os.fstat(found), os.fstat(descriptor))
        finally:
            os.close(found)
        if not is_staged:
            raise UploadUnknownError

    def _digest(self) -> Digest | None:
        if self._hasher is not None:
            return Digest(f"{self._hasher.name}:{self._hasher.hexdigest()}")
        return self._known.digest if self._known.offset == self._offset else None

    def _verify(self, digest: Digest) -> None:
        """Compare with the bytes' digest, read again only where nobody saw all of them pass."""
        found = self._digest()
        if found is None or found.algorithm is not digest.algorithm:
            found = _digest_of_file(self._path, digest.algorithm)
        if found != digest:
            raise DigestInvalidError(digest=str(digest), found=str(found))


def _digest_of_file(path: Path, algorithm: Algorithm) -> Digest:
    with path.open("rb") as file:
        return Digest(f"{algorithm}:{hashlib.file_digest(file, algorithm.hasher).hexdigest()}")


def open_shared(path: Path, flags: int) -> int:
    """Open a file that another machine may have made a moment ago.

    A client of NFS may remember that there was no such name; opening the directory has it ask.
    """
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        os.close(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        return os.open(path, flags | os.O_CLOEXEC, 0o600)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if TYPE_CHECKING:
    _: type[BlobWriter] = FilesystemWriter
