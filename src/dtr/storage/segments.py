"""The pieces that an upload consists of in an object store, and how a large one is written."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from dtr.model.errors import RegistryError, TooLargeError, UploadUnknownError
from dtr.storage.bucket import Bucket
from dtr.storage.multipart import Multiparts
from dtr.storage.parts import MOST_PARTS, SMALL_BYTES, part_bytes, parts_in_flight
from dtr.storage.retrying import ObjectStoreError


@dataclass(frozen=True, slots=True)
class Segment:
    """An object of `size` bytes that belongs to an upload; `nonce` tells it from all others."""

    nonce: str
    size: int

    @classmethod
    def parse(cls, state: str) -> list[Self]:
        """Read what `written` wrote.

        >>> Segment.parse("a1:5 b2:7")
        [Segment(nonce='a1', size=5), Segment(nonce='b2', size=7)]
        """
        pairs = (text.split(":") for text in state.split())
        return [cls(nonce, int(size)) for nonce, size in pairs]

    @staticmethod
    def written(segments: "Iterable[Segment]") -> str:
        """Write segments in their order, as the session's row keeps them."""
        return " ".join(f"{segment.nonce}:{segment.size}" for segment in segments)


class MultipartSegment:
    """A large segment on its way as a multipart upload of S3.

    Parts are sent while the next ones arrive, as many as memory allows. The object appears when it
    is sealed with the ETags of these very parts, or never.
    """

    def __init__(self, multiparts: Multiparts, bucket: Bucket, name: str, nonce: str) -> None:
        self._multiparts = multiparts
        self._bucket = bucket
        self._name = name
        self._nonce = nonce
        self._id = ""
        self._size = 0
        self._parts: list[asyncio.Task[str]] = []

    @property
    def wants(self) -> int:
        """How many bytes the next part has."""
        return part_bytes(len(self._parts) + 1)

    async def put(self, content: bytes) -> None:
        """Send the next part; waits only while too many others are on their way."""
        if not self._id:
            self._id = await self._multiparts.create(self._name)
        number = len(self._parts) + 1
        if number > MOST_PARTS:
            raise TooLargeError("the object store accepts no larger object")
        await self._wait(parts_in_flight(len(content)) - 1)
        part = self._multiparts.put(self._name, self._id, number, content)
        self._parts.append(asyncio.create_task(part))
        self._size += len(content)

    async def seal(self, content: bytes) -> Segment:
        """Send the last bytes and make the object.

        Raises:
            UploadUnknownError: the session ended meanwhile, and its parts are gone.

        """
        if content:
            await self.put(content)
        try:
            etags = [await part for part in self._parts]
            await self._multiparts.complete(self._name, self._id, etags, self._size)
        except ObjectStoreError as error:
            raise UploadUnknownError from error
        return Segment(self._nonce, self._size)

    async def drop(self) -> None:
        """Throw away what was sent; best effort, for the sweep finds what is left."""
        for part in self._parts:
            part.cancel()
        await asyncio.gather(*self._parts, return_exceptions=True)
        with suppress(RegistryError):
            if self._id:
                await self._multiparts.abort(self._name, self._id)
                # It may have been completed just now, by a request whose answer nobody waited for.
                await self._bucket.delete(self._name)

    async def _wait(self, most: int) -> None:
        """Wait until at most so many parts are on their way; raise what any of them met."""
        while True:
            under_way = {part for part in self._parts if not part.done()}
            self._raise_failure()
            if len(under_way) <= most:
                return
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)

    def _raise_failure(self) -> None:
        for part in self._parts[-16:]:
            if part.done() and part.exception() is not None:
                try:
                    part.result()
                except ObjectStoreError as error:
                    raise UploadUnknownError from error


class StreamedSegment:
    """A large segment on its way as one stream, where there are no S3 multipart requests."""

    def __init__(self, bucket: Bucket, name: str, nonce: str) -> None:
        self._bucket = bucket
        self._name = name
        self._nonce = nonce
        self._size = 0
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._sending: asyncio.Task[None] | None = None
        self._is_dropped = False

    @property
    def wants(self) -> int:
        """How many bytes it takes at a time."""
        return SMALL_BYTES

    async def put(self, content: bytes) -> None:
        """Hand the next bytes to the stream; waits while it is full."""
        if self._sending is None:
            self._sending = asyncio.create_task(
                self._bucket.put_stream(
                    self._name,
                    self._chunks(),
                    part_bytes=SMALL_BYTES,
                    in_flight=parts_in_flight(SMALL_BYTES),
                )
            )
        await self._hand_over(content)
        self._size += len(content)

    async def seal(self, content: bytes) -> Segment:
        """Send the last bytes and make the object."""
        if content:
            await self.put(content)
        await self._hand_over(None)
        if self._sending is not None:
            await self._sending
        return Segment(self._nonce, self._size)

    async def drop(self) -> None:
        """Throw away what was sent; best effort."""
        if self._sending is None:
            return
        # A stream that fails has obstore abort what it sent; one that is cancelled has not.
        self._is_dropped = True
        with suppress(RegistryError):
            await self._hand_over(b"")
        await asyncio.gather(self._sending, return_exceptions=True)
        with suppress(RegistryError):
            await self._bucket.delete(self._name)

    async def _hand_over(self, content: bytes | None) -> None:
        """Queue for the stream, or raise what it failed with."""
        queueing = asyncio.create_task(self._queue.put(content))
        waited_for = {queueing} | ({self._sending} if self._sending else set())
        try:
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            if not queueing.done() and self._sending is not None:
                await self._sending
        finally:
            queueing.cancel()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while (content := await self._queue.get()) is not None:
            if self._is_dropped:
                raise ValueError("the upload was given up")
            yield content
