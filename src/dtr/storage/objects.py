"""Blobs in an object store: S3 and what speaks its language, Azure, Google.

    PREFIX/blobs/id/ab/UPLOAD_ID.NONCE      a segment: what one request, or several, brought

Each writer of an upload writes objects that nobody else has a name for, and `Progress.state` lists
those that the upload consists of. So there are no locks, and writers that race cannot harm each
other: whoever records its progress first is the one that others go on from, and what the loser
wrote is garbage, found by the sweep because no metadata know it.

An upload whose bytes came with one request, as all common clients send them, is one segment, and
the segment is the blob: nothing is copied or renamed when it commits, and nothing transferred by
the request that commits it. Where requests brought less than `part_bytes`, the next one begins by
reading those few bytes back. Only an upload that came in several large pieces is put together from
them: by S3 itself (UploadPartCopy), elsewhere, and where an S3 cannot, by streaming through this
process.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import (
    ContentDamagedError,
    RegistryError,
    UnavailableError,
    UnsupportedError,
    UploadUnknownError,
)
from dtr.model.location import StorageLocation
from dtr.storage.bucket import Bucket
from dtr.storage.hashers import KeptHashers
from dtr.storage.multipart import Multiparts
from dtr.storage.objects_check import check_bucket
from dtr.storage.objects_writer import ObjectWriter
from dtr.storage.parts import SMALL_BYTES, parts_in_flight, ranges_to_copy
from dtr.storage.port import BlobStore, BlobWriter, Capability, Progress, StoredBlob
from dtr.storage.retrying import ObjectStoreError, Patience, is_refused
from dtr.storage.segments import MultipartSegment, Segment, StreamedSegment

T = TypeVar("T")

_LOG = structlog.get_logger()

_BLOBS = "blobs"
_KIND = "id"
_COPIES_IN_FLIGHT = 8


class ObjectBlobStore:
    """Blobs below `location`.

    What the object store fails at is asked again for `patience_seconds`. At most `connections`
    requests are under way at once, of obstore and of aiobotocore each. `has_multipart` says whether
    large objects are written with S3's multipart requests; without it, in one stream.
    """

    capabilities = frozenset({Capability.REDIRECT, Capability.EARLY_KEYS})

    def __init__(
        self,
        location: StorageLocation,
        *,
        patience_seconds: float = 60,
        connections: int = 64,
        has_multipart: bool | None = None,
        observe: Callable[[str, float], None] | None = None,
    ) -> None:
        self.bucket = Bucket(location, Patience(patience_seconds, observe), connections=connections)
        is_s3 = location.scheme == "s3"
        self._multiparts = Multiparts(self.bucket) if is_s3 else None
        self._has_multipart = is_s3 if has_multipart is None else has_multipart
        self._copies_parts = self._has_multipart
        self.hashers = KeptHashers()
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="hashing")

    async def begin(self, upload_id: str, algorithm: Algorithm) -> BlobWriter:
        """Begin an upload; nothing is asked of the object store."""
        return await self.resume(upload_id, algorithm, Progress())

    async def resume(self, upload_id: str, algorithm: Algorithm, progress: Progress) -> BlobWriter:
        """Go on after the segments of `progress`; nothing is asked of the object store."""
        segments = Segment.parse(progress.state)
        if sum(segment.size for segment in segments) != progress.offset:
            raise UploadUnknownError(upload=upload_id)
        hasher = self.hashers.take(upload_id, algorithm, progress)
        return ObjectWriter(self, upload_id, algorithm, progress, hasher)

    async def discard(
        self,
        upload_id: str,
        progress: Progress = Progress(),  # noqa: B008 - it is frozen
    ) -> None:
        """Delete the recorded segments, and abort what else the upload has under way."""
        self.hashers.forget(upload_id)
        names = [self.name(self.key(upload_id, s)) for s in Segment.parse(progress.state)]
        await self.bucket.delete(*names)
        if self._multiparts is not None:
            async for found in self._multiparts.walk(f"{_BLOBS}/{_place(upload_id)}."):
                await self._multiparts.abort(found.name, found.id)

    async def read(
        self, key: str, *, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """Stream from the object; a stream that breaks goes on where it was."""
        if stop is None:
            stop = await self.size(key)
            if stop is None:
                raise ContentDamagedError("stored content is missing")
        async for chunk in self.bucket.read(self.name(key), start, stop):
            yield chunk

    async def size(self, key: str) -> int | None:
        """Return the object's size."""
        return await self.bucket.size(self.name(key))

    async def delete(self, key: str) -> None:
        """Delete the object."""
        await self.bucket.delete(self.name(key))

    async def walk(self) -> AsyncIterator[StoredBlob]:
        """List the bucket, a thousand objects a request."""
        async for found in self.bucket.walk(_BLOBS):
            key = found.name.removeprefix(f"{_BLOBS}/")
            yield StoredBlob(key, found.size, found.modified_at, _upload_of(key))

    async def walk_uploads(self) -> AsyncIterator[StoredBlob]:
        """List the multipart uploads that nobody completed, with the times of their last parts."""
        if self._multiparts is None:
            return
        async for found in self._multiparts.walk(f"{_BLOBS}/"):
            upload_id = _upload_of(found.name.removeprefix(f"{_BLOBS}/"))
            if upload_id is not None:
                size, modified_at = await self._multiparts.parts(found)
                yield StoredBlob(upload_id, size, modified_at, upload_id)

    def path(self, key: str) -> Path:
        """Refuse: there is no file."""
        raise UnsupportedError(key=key)

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002
        """Return none."""
        return None

    async def redirect_url(self, key: str, seconds: float) -> str:
        """Return a URL that carries a signature of this registry's credentials."""
        return await self.bucket.sign(self.name(key), seconds)

    async def check_room(self) -> None:
        """Return: an object store says nothing of its room."""

    async def adopt(
        self, key: str, stream: AsyncIterator[bytes], size: int, digest: Digest
    ) -> None:
        """Write an object, which is there only once the stream has ended and was right."""
        taken, hasher, is_wrong = 0, digest.algorithm.hasher(), False

        async def checked() -> AsyncIterator[bytes]:
            nonlocal taken, is_wrong
            async for chunk in stream:
                taken += len(chunk)
                await asyncio.to_thread(hasher.update, chunk)
                yield chunk
            is_wrong = taken != size or hasher.hexdigest() != digest.encoded
            if is_wrong:  # an end would complete the object
                raise ContentDamagedError("the content to copy has other bytes than expected")

        try:
            await self._put(self.name(key), checked(), size)
        except Exception as error:
            if not is_wrong or isinstance(error, ContentDamagedError):
                raise
            raise ContentDamagedError(
                "the content to copy has other bytes than expected"
            ) from error

    async def heal(self, key: str, size: int, digest: Digest) -> bool:  # noqa: ARG002
        """Return False: there is one copy of everything."""
        return False

    async def check(self) -> None:
        """Ask once, without patience."""
        await self.bucket.check()

    async def check_by_use(self) -> None:
        """Go through everything that an upload, a download and collection do."""
        can_copy = await check_bucket(self.bucket, self._multiparts)
        if self._multiparts is not None and not can_copy:
            self._note_no_copies()

    async def close(self) -> None:
        """Finish what threads are doing and close the connections."""
        if self._multiparts is not None:
            await self._multiparts.close()
        self.bucket.close()
        self._threads.shutdown()

    def key(self, upload_id: str, segment: Segment) -> str:
        """Return the key of an upload's segment."""
        return f"{_place(upload_id)}.{segment.nonce}"

    def name(self, key: str) -> str:
        """Return the name of the object under `key`, below the location's prefix."""
        return f"{_BLOBS}/{key}"

    def new_segment(self, upload_id: str) -> MultipartSegment | StreamedSegment:
        """Return a segment that will be large, of which nothing is written yet."""
        nonce = secrets.token_hex(8)
        name = self.name(self.key(upload_id, Segment(nonce, 0)))
        if self._has_multipart and self._multiparts is not None:
            return MultipartSegment(self._multiparts, self.bucket, name, nonce)
        return StreamedSegment(self.bucket, name, nonce)

    async def write_small(self, upload_id: str, content: bytes) -> Segment:
        """Write a segment in one request."""
        segment = Segment(secrets.token_hex(8), len(content))
        await self.bucket.put(self.name(self.key(upload_id, segment)), content)
        return segment

    async def join(self, upload_id: str, segments: list[Segment]) -> Segment:
        """Make one segment of several.

        Raises:
            UploadUnknownError: one of them is not there any more.

        """
        joined = Segment(secrets.token_hex(8), sum(segment.size for segment in segments))
        target = self.name(self.key(upload_id, joined))
        sources = [(self.name(self.key(upload_id, each)), each.size) for each in segments]
        try:
            if not await self._is_copied(target, sources, joined.size):
                await self._put(target, self._read_all(sources), joined.size)
        except (ObjectStoreError, ContentDamagedError) as error:
            raise UploadUnknownError(upload=upload_id) from error
        return joined

    async def _is_copied(self, target: str, sources: list[tuple[str, int]], size: int) -> bool:
        """Have the store put an object together; False where it cannot, which is remembered.

        Raises:
            ObjectStoreError: one of the sources is not there.
            UnavailableError: the store does not answer.

        """
        if not self._copies_parts or self._multiparts is None:
            return False
        try:
            await _copy_parts(self._multiparts, target, sources)
        except UnavailableError as error:
            if not is_refused(error):
                raise
        else:
            if await self.bucket.size(target) == size:
                return True
        self._note_no_copies()
        return False

    def _note_no_copies(self) -> None:
        if self._copies_parts:
            _LOG.warning(
                "the object store cannot make objects of others (UploadPartCopy): what clients "
                "push in several large requests streams through this server once more"
            )
        self._copies_parts = False

    async def delete_segments(self, upload_id: str, segments: list[Segment]) -> None:
        """Delete segments that are garbage, as far as storage answers: the sweep finds the rest."""
        with suppress(RegistryError):
            await self.bucket.delete(*(self.name(self.key(upload_id, s)) for s in segments))

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run `call` on a thread of this store."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _put(self, name: str, stream: AsyncIterator[bytes], size: int) -> None:
        if size < SMALL_BYTES:
            await self.bucket.put(name, b"".join([chunk async for chunk in stream]))
            return
        size_of_part = SMALL_BYTES
        while size_of_part * 9_000 < size:
            size_of_part *= 2
        await self.bucket.put_stream(
            name, stream, part_bytes=size_of_part, in_flight=parts_in_flight(size_of_part)
        )

    async def _read_all(self, sources: list[tuple[str, int]]) -> AsyncIterator[bytes]:
        for name, size in sources:
            async for chunk in self.bucket.read(name, 0, size):
                yield chunk


async def _copy_parts(multiparts: Multiparts, target: str, sources: list[tuple[str, int]]) -> None:
    """Have S3 put an object together from others."""
    upload_id = await multiparts.create(target)
    turns = asyncio.Semaphore(_COPIES_IN_FLIGHT)

    async def copy(number: int, source: str, part: tuple[int, int]) -> str:
        async with turns:
            return await multiparts.copy(target, upload_id, number, source, part)

    pieces = [(name, part) for name, size in sources for part in ranges_to_copy(size)]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(copy(number, name, part))
                for number, (name, part) in enumerate(pieces, 1)
            ]
        etags = [task.result() for task in tasks]
        await multiparts.complete(target, upload_id, etags, sum(size for _, size in sources))
    except BaseExceptionGroup as errors:
        await multiparts.abort(target, upload_id)
        first = errors.exceptions[0]
        raise first from first.__cause__
    except BaseException:
        await multiparts.abort(target, upload_id)
        raise


def _place(upload_id: str) -> str:
    return f"{_KIND}/{upload_id[:2]}/{upload_id}"


def _upload_of(key: str) -> str | None:
    """Return the upload that wrote the object under `key`; keys of other drivers tell none."""
    kind, _, rest = key.partition("/")
    return rest.rpartition("/")[2].rpartition(".")[0] if kind == _KIND else None


if TYPE_CHECKING:
    _: type[BlobStore] = ObjectBlobStore
