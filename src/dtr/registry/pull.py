"""Pull: manifests and blobs (distribution-spec end-2, end-3)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from dtr.asgi import Request, Response
from dtr.asgi.conditions import is_current, wants_part
from dtr.database import Writer
from dtr.model.access import Action, Level
from dtr.model.digest import Digest
from dtr.model.errors import (
    BlobUnknownError,
    ContentDamagedError,
    ManifestUnknownError,
    UnavailableError,
)
from dtr.model.names import parse_reference
from dtr.registry import records
from dtr.registry.context import RegistryContext
from dtr.registry.ranges import Multipart, Read, Span, requested_spans
from dtr.registry.records import Blob
from dtr.storage import Capability

_SMALL_BYTES = 64 << 10
_REDIRECT_SECONDS = 300
_OCTETS = b"application/octet-stream"
_IMMUTABLE = b"private, max-age=31536000, immutable"
_KEEP_SECONDS = 1.0
_REVALIDATE = b"private, no-cache"

Keep = Callable[[Writer, int, Digest, float], bool]


class Pull:
    """GET and HEAD of manifests and blobs."""

    def __init__(self, context: RegistryContext) -> None:
        self._context = context
        capabilities = context.store.capabilities
        self._has_copies = Capability.PLACEMENT in capabilities
        self._redirects = context.settings.redirect and Capability.REDIRECT in capabilities

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
        if is_current(request, encoded):
            return Response(304, headers=headers)
        headers[b"content-type"] = media_type.encode()
        if request.method == "GET":
            self._context.pulls.count(repository.id, manifest_id, self._context.clock())
        return Response(headers=headers, body=payload)

    async def blob(self, request: Request) -> Response:
        """Answer a blob, or a part of it (end-2; RFC 9110 section 14)."""
        repository = request.existing_repository()
        digest = Digest.parse(request.parameters["digest"])
        database = self._context.database
        parameters = {"repository_id": repository.id, "digest": digest}
        # Whoever is sent elsewhere cannot come back for another key: there the primary is asked.
        lookup = records.BLOB_NOW if self._redirects else records.BLOB
        row = await database.lookup(lookup, parameters)
        if row is None:
            raise BlobUnknownError(digest=str(digest))
        blob = records.blob_of(row)
        try:
            return await self._answer(request, blob, row[3])
        except ContentDamagedError:
            now = await database.lookup(records.BLOB_NOW, parameters)
            if now is None:
                raise BlobUnknownError(digest=str(digest)) from None
            if now[2] == blob.storage_key:
                raise
        # It was collected and pushed again, and only a standby did not know.
        return await self._answer(request, records.blob_of(now), now[3])

    async def _answer(self, request: Request, blob: Blob, review_at: float | None) -> Response:
        """Answer a blob from where it is said to be.

        Raises:
            BlobUnknownError: collection was first.
            ContentDamagedError: the bytes are not there.

        """
        digest = blob.digest
        grace = self._context.settings.grace_seconds
        if not await self._is_kept(request, digest, review_at, grace, records.keep_blob):
            raise BlobUnknownError(digest=str(digest))
        encoded = digest.encode()
        headers = {
            b"docker-content-digest": encoded,
            b"etag": b'"%b"' % encoded,
            b"cache-control": _IMMUTABLE,
            b"accept-ranges": b"bytes",
        }
        if is_current(request, encoded):
            return Response(304, headers=headers)
        headers[b"content-type"] = _OCTETS
        if request.method == "HEAD":  # Range is for GET alone (RFC 9110 14.2)
            return Response(headers=headers, length=blob.size)
        parts = _requested_parts(request, blob.size, encoded)
        if len(parts) > 1:  # by ourselves: object storage answers only one range at a time
            several = Multipart(parts, blob.size, _OCTETS)
            if several.length < blob.size:  # with all its heads, it may be more than the whole
                return await self._parts(blob, headers, several)
        if self._redirects:
            return await self._redirection(blob)
        if len(parts) == 1:
            return await self._part(blob, headers, *parts[0])
        return await self._whole(blob, headers)

    async def _whole(self, blob: Blob, headers: dict[bytes, bytes]) -> Response:
        path = self._path(blob)
        if path is not None:
            try:
                return _file(blob, headers, path)
            except ContentDamagedError:
                if not self._has_copies:
                    raise
        stream = self._context.store.read(blob.storage_key, stop=blob.size)
        if self._context.cache is not None:
            stream = self._context.cache.filled_by(blob.digest, blob.size, stream)
        return Response(headers=headers, stream=await _begun(stream), length=blob.size)

    async def _redirection(self, blob: Blob) -> Response:
        """Send the client to storage, with a range if it asked for one; it may, we have looked."""
        url = await self._context.store.redirect_url(blob.storage_key, _REDIRECT_SECONDS)
        response = Response(307, headers={b"cache-control": b"private, no-store"})
        response.add(b"location", url)
        response.add(b"docker-content-digest", str(blob.digest))
        return response

    def _path(self, blob: Blob) -> Path | None:
        """Return a file on this machine that holds the blob, if there is one."""
        if self._context.cache is not None:
            return self._context.cache.find(blob.digest, blob.size)
        return self._context.store.local_path(blob.storage_key)

    async def _part(
        self, blob: Blob, headers: dict[bytes, bytes], start: int, stop: int
    ) -> Response:
        headers[b"content-range"] = b"bytes %d-%d/%d" % (start, stop - 1, blob.size)
        stream = await _begun(self._reader(blob)(start, stop))
        return Response(206, headers=headers, stream=stream, length=stop - start)

    async def _parts(self, blob: Blob, headers: dict[bytes, bytes], parts: Multipart) -> Response:
        headers[b"content-type"] = parts.content_type
        stream = await _begun(parts.stream(self._reader(blob)))
        return Response(206, headers=headers, stream=stream, length=parts.length)

    def _reader(self, blob: Blob) -> Read:
        """Return a way to read parts of a blob: from the cache, where it is there."""
        cache, read = self._context.cache, self._context.store.read
        path = cache and cache.find(blob.digest, blob.size)

        async def parts(start: int, stop: int) -> AsyncIterator[bytes]:
            if cache and path:
                with suppress(FileNotFoundError):  # it was cleared away at this moment
                    async for piece in cache.read(path, start, stop):
                        yield piece
                    return
            async for piece in read(blob.storage_key, start=start, stop=stop):
                yield piece

        return parts

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


def _looked_up(path: Path, expected: int) -> tuple[bytes, int]:
    """Return a small file's content, and any file's size; -1 where there is none.

    A small read from a local disk costs less than handing it to another thread.
    """
    try:
        if expected > _SMALL_BYTES:
            return b"", path.stat().st_size
        body = path.read_bytes()
    except FileNotFoundError:
        return b"", -1
    return body, len(body)


def _file(blob: Blob, headers: dict[bytes, bytes], path: Path) -> Response:
    """Answer a whole file: a small one from memory, others without passing through Python."""
    body, size = _looked_up(path, blob.size)
    if size != blob.size:
        message = "stored content is missing or cut; an administrator can run dtr fsck"
        raise ContentDamagedError(message, digest=str(blob.digest))
    if body:
        return Response(headers=headers, body=body)
    return Response(headers=headers, file=path, length=blob.size)


async def _begun(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Return the stream once its first piece is here: until then a failure can still be said."""
    first = await anext(stream, b"")

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for chunk in stream:
            yield chunk

    return whole()


def _requested_parts(request: Request, size: int, digest: bytes) -> Sequence[Span]:
    """Return the parts of a blob that a client wants; none, where it wants the whole."""
    header = request.headers.get(b"range")
    if header is None or not wants_part(request, digest):
        return ()
    return requested_spans(header.decode("latin-1"), size) or ()
