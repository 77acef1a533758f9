"""Blobs in memory: the twin of the real drivers for tests."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import (
    ContentDamagedError,
    DigestInvalidError,
    UnsupportedError,
    UploadBusyError,
    UploadUnknownError,
)
from dtr.storage.port import CHUNK_BYTES, BlobStore, BlobWriter, Capability, Progress, StoredBlob


class MemoryBlobStore:
    """Keeps everything in dictionaries; gone with the process."""

    capabilities = frozenset({Capability.LOCKS_UPLOADS})

    def __init__(self) -> None:
        self.staged: dict[str, bytearray] = {}
        self.committed: dict[str, tuple[bytes, float]] = {}
        self.open_uploads: set[str] = set()
        self._next_key = 0

    async def resume(self, upload_id: str, algorithm: Algorithm, progress: Progress) -> BlobWriter:
        """Open an upload."""
        if upload_id in self.open_uploads:
            raise UploadBusyError
        if len(self.staged.get(upload_id, b"")) < progress.offset:
            raise UploadUnknownError
        self.staged.setdefault(upload_id, bytearray())
        self.open_uploads.add(upload_id)
        return _MemoryWriter(self, upload_id, algorithm, progress.offset)

    async def begin(self, upload_id: str, algorithm: Algorithm) -> BlobWriter:
        """Begin an upload."""
        return await self.resume(upload_id, algorithm, Progress())

    async def discard(
        self,
        upload_id: str,
        progress: Progress = Progress(),  # noqa: ARG002, B008 - frozen; all is under the id
    ) -> None:
        """Delete an upload."""
        self.staged.pop(upload_id, None)

    async def read(
        self, key: str, *, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """Stream committed bytes."""
        if key not in self.committed:
            raise ContentDamagedError("stored content is missing")
        content = self.committed[key][0]
        stop = len(content) if stop is None else stop
        if stop > len(content):
            raise ContentDamagedError("stored content is missing")
        for position in range(start, stop, CHUNK_BYTES):
            yield content[position : min(position + CHUNK_BYTES, stop)]

    async def size(self, key: str) -> int | None:
        """Return the size under `key`."""
        return len(self.committed[key][0]) if key in self.committed else None

    async def delete(self, key: str) -> None:
        """Delete committed bytes."""
        self.committed.pop(key, None)

    async def walk(self) -> AsyncIterator[StoredBlob]:
        """Find committed objects."""
        for key, (content, modified_at) in list(self.committed.items()):
            yield StoredBlob(key, len(content), modified_at)

    async def walk_uploads(self) -> AsyncIterator[StoredBlob]:
        """Find staged uploads."""
        for upload_id, staged in list(self.staged.items()):
            yield StoredBlob(upload_id, len(staged), time.time())

    def path(self, key: str) -> Path:
        """Refuse: memory has no files."""
        raise UnsupportedError(key=key)

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002
        """Return none."""
        return None

    async def redirect_url(self, key: str, seconds: float) -> str:
        """Refuse: clients cannot reach memory."""
        raise UnsupportedError(key=key, seconds=seconds)

    async def check_room(self) -> None:
        """Return: nobody counts memory."""

    async def adopt(
        self, key: str, stream: AsyncIterator[bytes], size: int, digest: Digest
    ) -> None:
        """Keep bytes under a key of another store."""
        content = b"".join([chunk async for chunk in stream])
        if len(content) != size or Digest.of(content, digest.algorithm) != digest:
            raise ContentDamagedError("the content to copy has other bytes than expected")
        self.committed[key] = (content, time.time())

    async def heal(self, key: str, size: int, digest: Digest) -> bool:  # noqa: ARG002
        """Return False: there is one copy of everything."""
        return False

    async def check(self) -> None:
        """Memory always answers."""

    async def check_by_use(self) -> None:
        """Memory always works."""

    async def close(self) -> None:
        """Nothing is held."""

    def put(self, content: bytes) -> str:
        """Keep `content` under a new key."""
        self._next_key += 1
        key = f"memory/{self._next_key}"
        self.committed[key] = (content, time.time())
        return key


class _MemoryWriter:
    def __init__(
        self, store: MemoryBlobStore, upload_id: str, algorithm: Algorithm, start: int
    ) -> None:
        self._store = store
        self._upload_id = upload_id
        self._algorithm = algorithm
        self._content = store.staged[upload_id]
        self._start: int | None = start
        self._is_open = True
        self._key = ""

    @property
    def offset(self) -> int:
        return len(self._content) if self._start is None else self._start

    @property
    def holders(self) -> tuple[str, ...]:
        return ()

    def _begin(self) -> None:
        """Drop what a dead process left behind, before the first change."""
        if self._start is not None:
            del self._content[self._start :]
            self._start = None

    async def append(self, chunk: bytes) -> None:
        self._begin()
        self._content.extend(chunk)

    async def flush(self) -> Progress:
        self._begin()
        return Progress(self.offset, Digest.of(bytes(self._content), self._algorithm))

    async def recorded(self) -> None:
        """Nothing was replaced."""

    async def commit(self, digest: Digest) -> str:
        self._begin()
        content = bytes(self._content)
        if Digest.of(content, digest.algorithm) != digest:
            raise DigestInvalidError(digest=str(digest))
        await self.close()
        await self._store.discard(self._upload_id)
        self._key = self._store.put(content)
        return self._key

    async def withdraw(self) -> None:
        await self._store.delete(self._key)

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._store.open_uploads.discard(self._upload_id)

    async def cancel(self) -> None:
        if self._is_open:
            await self.close()
            await self._store.discard(self._upload_id)


if TYPE_CHECKING:
    _: type[BlobStore] = MemoryBlobStore
