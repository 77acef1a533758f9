"""One upload on its way to an object store: receiving, hashing and sending overlap."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import (
    ContentDamagedError,
    DigestInvalidError,
    RegistryError,
    UnavailableError,
    UploadUnknownError,
)
from dtr.storage.hashers import Hasher
from dtr.storage.parts import SMALL_BYTES, part_bytes
from dtr.storage.pieces import Pieces, add_piece
from dtr.storage.port import BlobWriter, Progress
from dtr.storage.segments import MultipartSegment, Segment, StreamedSegment

if TYPE_CHECKING:
    from dtr.storage.objects import ObjectBlobStore


class ObjectWriter:
    """Gathers a part, sends and hashes it while the next one is gathered.

    `_segments` are whole objects; `_open` is one on its way, and `_pieces` are what comes after it.
    """

    def __init__(
        self,
        store: "ObjectBlobStore",
        upload_id: str,
        algorithm: Algorithm,
        progress: Progress,
        hasher: Hasher | None,
    ) -> None:
        self._store = store
        self._upload_id = upload_id
        self._algorithm = algorithm
        self._hasher = hasher
        self._known = progress
        self._offset = progress.offset
        self._segments = Segment.parse(progress.state)
        self._own: list[Segment] = []
        self._replaced: list[Segment] = []
        self._open: MultipartSegment | StreamedSegment | None = None
        self._pieces: Pieces = []
        self._gathered_bytes = 0
        self._unhashed: Pieces = []
        self._hashing: asyncio.Task[None] | None = None
        self._failure: RegistryError | None = None
        self._is_closed = False
        self._is_committed = False

    @property
    def offset(self) -> int:
        """Bytes taken so far."""
        return self._offset

    @property
    def holders(self) -> tuple[str, ...]:
        """Nobody in particular: whoever reaches the storage has it."""
        return ()

    async def append(self, chunk: bytes) -> None:
        """Gather; wait only for the parts before the one that is gathered."""
        add_piece(self._pieces, chunk)
        add_piece(self._unhashed, chunk)
        self._gathered_bytes += len(chunk)
        self._offset += len(chunk)
        if self._gathered_bytes >= self._wanted:
            await self._decide(self._send())

    async def flush(self) -> Progress:
        """Make an object of what arrived, from which any process can go on."""
        if self._gathered_bytes or self._open is not None or self._failure is not None:
            await self._decide(self._seal())
        self._known = Progress(self._offset, self._digest(), Segment.written(self._segments))
        return self._known

    async def recorded(self) -> None:
        """Delete the objects that the recorded ones have replaced."""
        self._own.clear()
        replaced, self._replaced = self._replaced, []
        await self._delete(replaced)

    async def commit(self, digest: Digest) -> str:
        """Verify, and make one object of everything where it is not one already."""
        await self._take_back()
        await self._hash()
        await self._hashed()
        _verify(digest, self._digest())
        await self.flush()
        found = self._digest()
        if found is None or found.algorithm is not digest.algorithm:
            _verify(digest, await self._read_digest(digest.algorithm))
        await self._decide(self._join())
        self._hasher, self._is_committed = None, True
        await self.close()
        return self._store.key(self._upload_id, self._segments[0])

    async def withdraw(self) -> None:
        """Delete the objects that this writer made."""
        own, self._own = self._own, []
        await self._delete(own)

    async def close(self) -> None:
        """Throw away what was not flushed; keep the hash state of what was."""
        if self._is_closed:
            return
        self._is_closed = True
        is_flushed = not self._gathered_bytes and self._open is None and self._failure is None
        if self._hashing is not None:
            await asyncio.gather(self._hashing, return_exceptions=True)
        if self._hasher is not None and is_flushed:
            self._store.hashers.keep(self._upload_id, self._offset, self._hasher)
        self._pieces.clear()
        if self._open is not None:
            await self._open.drop()

    async def cancel(self) -> None:
        """Delete what this writer wrote and nobody recorded."""
        self._hasher = None
        await self.close()
        if not self._is_committed:
            await self.withdraw()

    @property
    def _wanted(self) -> int:
        return self._open.wants if self._open is not None else SMALL_BYTES

    async def _decide(self, step: Coroutine[Any, Any, None]) -> None:
        """Do `step` whole, or nothing after it: no object is made around a hole."""
        if self._failure is not None:
            step.close()
            raise self._failure
        try:
            await step
        except RegistryError as error:
            self._failure = error
            raise
        except BaseException:
            self._failure = UnavailableError("the upload was interrupted")
            raise

    async def _send(self) -> None:
        """Send what is gathered in whole parts."""
        await self._take_back()
        await self._hash()
        gathered = b"".join(self._pieces)
        position = 0
        while len(gathered) - position >= self._wanted:
            if self._open is None:
                self._open = self._store.new_segment(self._upload_id)
            part = gathered[position : position + self._wanted]
            position += len(part)
            await self._open.put(part)
        self._pieces = [gathered[position:]]
        self._gathered_bytes = len(gathered) - position

    async def _seal(self) -> None:
        """Make an object of what is gathered and on its way."""
        await self._take_back()
        await self._hash()
        content = b"".join(self._pieces)
        self._pieces, self._gathered_bytes = [], 0
        if self._open is None:
            self._add(await self._store.write_small(self._upload_id, content))
        else:
            self._add(await self._open.seal(content))
            self._open = None
        await self._hashed()

    async def _join(self) -> None:
        """Make one object of all segments; one that is here already must still be there."""
        if not self._segments:
            self._add(await self._store.write_small(self._upload_id, b""))
        elif len(self._segments) > 1:
            joined = await self._store.join(self._upload_id, self._segments)
            self._replaced += self._segments
            self._segments = []
            self._add(joined)
        elif not self._own:
            segment = self._segments[0]
            key = self._store.key(self._upload_id, segment)
            if await self._store.size(key) != segment.size:
                raise UploadUnknownError(upload=self._upload_id)

    async def _take_back(self) -> None:
        """Read a last segment back that is too short to stay one where more follows it."""
        is_first = self._open is None and self._gathered_bytes > 0
        if not is_first or not self._segments:
            return
        last = self._segments[-1]
        if last.size >= part_bytes(len(self._segments)):
            return
        content = await self._read(last)
        self._segments.pop()
        self._replaced.append(last)
        if self._hasher is None and not self._segments:
            # These are all bytes before ours: from here on this process has seen everything.
            self._hasher = self._algorithm.hasher()
            self._unhashed.insert(0, content)
        self._pieces.insert(0, content)
        self._gathered_bytes += last.size

    async def _read(self, segment: Segment) -> bytes:
        key = self._store.key(self._upload_id, segment)
        try:
            chunks = [chunk async for chunk in self._store.read(key, stop=segment.size)]
        except ContentDamagedError as error:
            raise UploadUnknownError(upload=self._upload_id) from error
        return b"".join(chunks)

    async def _read_digest(self, algorithm: Algorithm) -> Digest:
        """Hash the segments, where no process has seen all bytes pass."""
        hasher = algorithm.hasher()
        for segment in self._segments:
            key = self._store.key(self._upload_id, segment)
            try:
                async for chunk in self._store.read(key, stop=segment.size):
                    await self._store.in_thread(lambda chunk=chunk: hasher.update(chunk))  # type: ignore[misc]
            except ContentDamagedError as error:
                raise UploadUnknownError(upload=self._upload_id) from error
        return Digest(f"{algorithm}:{hasher.hexdigest()}")

    async def _hash(self) -> None:
        """Begin to hash what arrived since, once what was before it is hashed."""
        await self._hashed()
        pieces, self._unhashed = self._unhashed, []
        hasher = self._hasher
        if hasher is None or not pieces:
            return

        def update() -> None:
            for piece in pieces:
                hasher.update(memoryview(piece))

        self._hashing = asyncio.create_task(self._store.in_thread(update))

    async def _hashed(self) -> None:
        if self._hashing is not None:
            await asyncio.shield(self._hashing)

    def _digest(self) -> Digest | None:
        if self._hasher is not None:
            return Digest(f"{self._hasher.name}:{self._hasher.hexdigest()}")
        return self._known.digest if self._known.offset == self._offset else None

    def _add(self, segment: Segment) -> None:
        self._segments.append(segment)
        self._own.append(segment)

    async def _delete(self, segments: list[Segment]) -> None:
        """Delete objects, best effort: the sweep finds those that no metadata know."""
        await self._store.delete_segments(self._upload_id, segments)


def _verify(digest: Digest, found: Digest | None) -> None:
    """Compare, where what was found can be compared."""
    if found is not None and found.algorithm is digest.algorithm and found != digest:
        raise DigestInvalidError(digest=str(digest), found=str(found))


if TYPE_CHECKING:
    _: type[BlobWriter] = ObjectWriter
