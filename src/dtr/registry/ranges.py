"""Parts of a blob: what Range asks for, and the answer to several at once (RFC 9110 section 14)."""

import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from dtr.model.errors import ContentDamagedError, RangeNotSatisfiableError

MOST_RANGES: Final = 1024
"""What podman asks for at most in one request; a Range with more is ignored."""

_UNIT: Final = re.compile(r"bytes=(.+)\Z", re.IGNORECASE | re.ASCII)
_SPEC: Final = re.compile(r"(\d{0,40})-(\d{0,40})\Z", re.ASCII)
_SKIPPED_BYTES: Final = 64 << 10
SKIPPED_SHARE: Final = 4
"""How many bytes are read and dropped, at most, for each byte of an answer."""
_GATHERED_BYTES: Final = 64 << 10

Read = Callable[[int, int], AsyncIterator[bytes]]
"""Reads a blob from one byte to another."""

Span = tuple[int, int]
"""The first byte of a part, and the one behind its last."""


def requested_spans(header: str, size: int) -> list[Span] | None:
    """Return the parts of a blob of `size` bytes that a Range header asks for.

    None: the header is to be ignored, because it is none of bytes, or of more parts than
    `MOST_RANGES`. Parts that overlap become one, so that all of them together are no more than the
    blob. Parts that only touch stay apart: podman takes each part of an answer for one of its own.

    Raises:
        RangeNotSatisfiableError: no part of it is within the blob.

    >>> requested_spans("bytes=0-4, 5-9, -1", 100)
    [(0, 5), (5, 10), (99, 100)]
    >>> requested_spans("bytes=50-,0-9,5-14", 100)
    [(0, 15), (50, 100)]
    """
    match = _UNIT.match(header)
    if match is None or match[1].count(",") > 2 * MOST_RANGES:
        return None
    specs = [spec.strip(" \t") for spec in match[1].split(",")]
    matches = [_SPEC.match(spec) for spec in specs if spec]  # RFC 9110 5.6.1.2: empty is nothing
    if not 0 < len(matches) <= MOST_RANGES:
        return None
    spans = []
    for each in matches:
        if each is None or each[0] == "-":
            return None
        span = _span(each[1], each[2], size)
        if span[0] < span[1]:
            spans.append(span)
    if not spans:
        raise RangeNotSatisfiableError(size)
    return _apart(spans)


def _span(first: str, last: str, size: int) -> Span:
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1, size) if last else size


def _apart(spans: list[Span]) -> list[Span]:
    """Return the spans as they are where none overlaps another; else in order, and merged."""
    ordered = sorted(spans)
    if all(before[1] <= after[0] for before, after in pairwise(ordered)):
        return spans
    merged = [ordered[0]]
    for start, stop in ordered[1:]:
        if start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return merged


@dataclass(frozen=True)
class Multipart:
    """The body of an answer with several parts of one blob (RFC 9110 14.6)."""

    spans: Sequence[Span]
    size: int
    media_type: bytes
    boundary: bytes = field(default_factory=lambda: secrets.token_hex(16).encode())

    @property
    def content_type(self) -> bytes:
        """The Content-Type of the whole."""
        return b"multipart/byteranges; boundary=%b" % self.boundary

    @property
    def length(self) -> int:
        """The bytes of the whole body."""
        heads = sum(len(self._head(span)) for span in self.spans)
        return heads + sum(stop - start for start, stop in self.spans) + len(self._tail)

    async def stream(self, read: Read) -> AsyncIterator[bytes]:
        """Yield the body; the first piece comes when the first bytes of the blob are there.

        Raises:
            ContentDamagedError: the blob is shorter than it was said to be.

        """
        gathered: list[bytes] = []
        count = 0
        async for piece in self._pieces(read):
            gathered.append(piece)
            count += len(piece)
            if count >= _GATHERED_BYTES:  # to hand over each small part would cost more than it
                yield b"".join(gathered)
                gathered, count = [], 0
        yield b"".join([*gathered, self._tail])

    async def _pieces(self, read: Read) -> AsyncIterator[bytes]:
        """Yield heads and contents.

        Parts that lie close behind one another are read at once, and what is between them is
        dropped: a request to storage costs more than a few bytes that nobody wants. How many are
        dropped depends on what is answered: a thousand parts of a byte would read 64 MiB.
        """
        for group in _groups(self.spans, most_skipped=self.length * SKIPPED_SHARE):
            position = group[0][0]
            async with aclosing(_Content(read(position, group[-1][1]))) as content:
                for start, stop in group:
                    await content.skip(start - position)
                    yield self._head((start, stop))
                    async for piece in content.take(stop - start):
                        yield piece
                    position = stop

    def _head(self, span: Span) -> bytes:
        where = b"Content-Range: bytes %d-%d/%d" % (span[0], span[1] - 1, self.size)
        lines = (b"", b"--" + self.boundary, b"Content-Type: " + self.media_type, where, b"", b"")
        return b"\r\n".join(lines)

    @property
    def _tail(self) -> bytes:
        return b"\r\n--%b--\r\n" % self.boundary


def _groups(spans: Sequence[Span], *, most_skipped: int) -> list[list[Span]]:
    """Return the spans in their order, those together that are read at once.

    The smallest gaps are skipped first: a byte that is dropped saves most requests there.
    """
    gaps = [after[0] - before[1] for before, after in pairwise(spans)]
    skipped = set()
    for place in sorted(range(len(gaps)), key=gaps.__getitem__):
        if 0 <= gaps[place] <= min(_SKIPPED_BYTES, most_skipped):
            skipped.add(place)
            most_skipped -= gaps[place]
    groups = [[spans[0]]]
    for place, span in enumerate(spans[1:]):
        if place in skipped:
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups


class _Content:
    """Bytes from a stream, as many as are wanted."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._left = memoryview(b"")

    async def take(self, count: int) -> AsyncIterator[bytes]:
        while count > 0:
            if not self._left:
                piece = await anext(self._stream, None)
                if piece is None:
                    raise ContentDamagedError("stored content is shorter than it was")
                self._left = memoryview(piece)
            taken, self._left = self._left[:count], self._left[count:]
            count -= len(taken)
            yield bytes(taken)

    async def skip(self, count: int) -> None:
        async for _ in self.take(count):
            pass

    async def aclose(self) -> None:
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()
