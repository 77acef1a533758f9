"""Pull: manifests and blobs (distribution-spec end-2, end-3)."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable

from dtr.asgi import Request, Response
from dtr.database import Writer
from dtr.model.access import Action, Level
from dtr.model.digest import Digest
from dtr.model.errors import (
    BlobUnknownError,
    ContentDamagedError,
    ManifestUnknownError,
    RangeNotSatisfiableError,
    RegistryError,
    UnavailableError,
)
from dtr.model.names import parse_reference
from dtr.registry import records
from dtr.registry.context import RegistryContext
from dtr.registry.records import Blob
from dtr.storage import Capability

_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z", re.ASCII)
_SMALL_BYTES = 64 << 10
_OCTETS = b"application/octet-stream"
_IMMUTABLE = b"private, max-age=31536000, immutable"
_KEEP_SECONDS = 1.0
_REVALIDATE = b"private, no-cache"

Keep = Callable[[Writer, int, Digest, float], bool]


class Pull:
    """GET and HEAD of manifests and blobs."""

    def __init__(self, context: RegistryContext) -> None:
        self._context = context
        self._has_paths = Capability.LOCAL_PATH in context.store.capabilities

    async def manifest(self, request: Request) -> Response:
        """Answer a manifest in the very bytes that were pushed (end-3)."""
        repository = request.existing_repository()
        reference = parse_reference(request.parameters["reference"])
        is_digest = isinstance(reference, Digest)
        lookup = records.MANIFEST_BY_DIGEST if is_digest else records.MANIFEST_BY_TAG
        row = await self._context.database.lookup(
            lookup, {"repository_id": repository.id, "reference": reference}
        )
        if row is None:
            raise ManifestUnknownError(reference=str(reference))
        digest, media_type, payload, review_at, manifest_id = row
        grace = self._context.settings.untagged_grace_seconds
        if review_at is not None and not await self._is_kept(
            request, Digest(digest), review_at, grace, records.keep_manifest
        ):
            raise ManifestUnknownError(reference=str(reference))
        encoded = digest.encode()
        headers = {
            b"docker-content-digest": encoded,
            b"etag": b'"%b"' % encoded,
            b"cache-control": _IMMUTABLE if is_digest else _REVALIDATE,
        }
        if _is_current(request, encoded):
            return Response(304, headers=headers)
        headers[b"content-type"] = media_type.encode()
        if request.method == "GET":
            self._context.pulls.count(repository.id, manifest_id, self._context.clock())
        return Response(headers=headers, body=payload)

    async def blob(self, request: Request) -> Response:
        """Answer a blob, or a part of it (end-2; RFC 9110 section 14)."""
        repository = request.existing_repository()
        digest = Digest.parse(request.parameters["digest"])
        row = await self._context.database.lookup(
            records.BLOB, {"repository_id": repository.id, "digest": digest}
        )
        if row is None:
            raise BlobUnknownError(digest=str(digest))
        blob = records.blob_of(row)
        grace = self._context.settings.grace_seconds
        if not await self._is_kept(request, digest, row[3], grace, records.keep_blob):
            raise BlobUnknownError(digest=str(digest))
        encoded = digest.encode()
        headers = {
            b"docker-content-digest": encoded,
            b"etag": b'"%b"' % encoded,
            b"cache-control": _IMMUTABLE,
            b"accept-ranges": b"bytes",
        }
        if _is_current(request, encoded):
            return Response(304, headers=headers)
        headers[b"content-type"] = _OCTETS
        wanted = _requested_range(request, blob.size, encoded)
        if wanted is not None:
            return await self._part(blob, headers, *wanted)
        if request.method == "HEAD":
            return Response(headers=headers, length=blob.size)
        if self._has_paths:
            return await self._file(request, blob, headers)
        stream = await _begun(self._context.store.read(blob.storage_key, stop=blob.size))
        return Response(headers=headers, stream=stream, length=blob.size)

    async def _file(self, request: Request, blob: Blob, headers: dict[bytes, bytes]) -> Response:
        """Answer a whole file: a small one from memory, any other without passing through Python.

        A small read from a local disk costs less than handing it to another thread.
        """
        path = self._context.store.path(blob.storage_key)
        try:
            if blob.size <= _SMALL_BYTES:
                body = path.read_bytes()
                size = len(body)
            else:
                body, size = b"", path.stat().st_size
        except FileNotFoundError:
            size = -1
        if size != blob.size:
            raise await self._damaged(request, blob)
        if body:
            return Response(headers=headers, body=body)
        return Response(headers=headers, file=path, length=blob.size)

    async def _damaged(self, request: Request, blob: Blob) -> RegistryError:
        """Return what to say of missing bytes: collection may have taken them a moment ago."""
        parameters = {
            "repository_id": request.existing_repository().id,
            "digest": str(blob.digest),
        }
        row = await self._context.database.lookup(records.BLOB, parameters)
        if row is None or row[2] != blob.storage_key:
            return BlobUnknownError(digest=str(blob.digest))
        message = "stored content is missing or cut; an administrator can run dtr fsck"
        return ContentDamagedError(message, digest=str(blob.digest))

    async def _part(
        self, blob: Blob, headers: dict[bytes, bytes], start: int, stop: int
    ) -> Response:
        headers[b"content-range"] = b"bytes %d-%d/%d" % (start, stop - 1, blob.size)
        stream = await _begun(self._context.store.read(blob.storage_key, start=start, stop=stop))
        return Response(206, headers=headers, stream=stream, length=stop - start)

    async def _is_kept(
        self, request: Request, digest: Digest, review_at: float | None, grace: float, keep: Keep
    ) -> bool:
        """Keep content for whoever may be about to push a manifest that needs it.

        A client that is told that something is here will not push it. Half of the grace is enough
        to have left, so that a storm of HEADs writes once. Returns False when collection was first.
        """
        now = self._context.clock()
        if review_at is None or review_at - now > grace / 2:
            return True
        repository, principal = request.existing_repository(), request.principal
        if principal.is_anonymous or (
            principal.scope is not None and not principal.scope.allows(repository.name, Action.PUSH)
        ):
            return True
        if (await self._context.gate.level(principal, repository.name))[0] < Level.READ_WRITE:
            return True
        kept = asyncio.ensure_future(
            self._context.database.write(keep, repository.id, digest, now + grace)
        )
        if request.method == "HEAD":
            return await kept
        # A full disk or a lost primary stops pushes, not pulls: whoever gets the bytes relies on
        # nothing more. The write goes on by itself.
        done, _ = await asyncio.wait({kept}, timeout=_KEEP_SECONDS)
        if not done:
            kept.add_done_callback(_forget)
            return True
        return isinstance(kept.exception(), UnavailableError) or kept.result()


def _forget(kept: asyncio.Future[bool]) -> None:
    """Take note of how a write ended that nobody waits for."""
    if not kept.cancelled():
        kept.exception()


async def _begun(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Return the stream once its first piece is here: until then a failure can still be said."""
    first = await anext(stream, b"")

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for chunk in stream:
            yield chunk

    return whole()


def _is_current(request: Request, digest: bytes) -> bool:
    """Tell whether the client has this very content (If-None-Match, RFC 9110 13.1.2)."""
    condition = request.headers.get(b"if-none-match")
    return condition is not None and (condition == b"*" or digest in condition)


def _requested_range(request: Request, size: int, digest: bytes) -> tuple[int, int] | None:
    """Return start and stop of the one range asked for, or None for all of it.

    Several ranges in one request are answered with the whole, as RFC 9110 14.2 allows: answering
    each would let one request cost many.

    Raises:
        RangeNotSatisfiableError: the range begins after the end, or after its own end.

    """
    header = request.headers.get(b"range")
    if header is None or digest not in request.headers.get(b"if-range", digest):
        return None
    match = _RANGE.match(header.decode("latin-1"))
    if match is None or match[0] == "bytes=-" or len(header) > 64:  # noqa: PLR2004
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        start, stop = size - length, size
    else:
        start = int(first)
        stop = min(int(last) + 1, size) if last else size
    if start >= stop:
        raise RangeNotSatisfiableError(size)
    return start, stop
