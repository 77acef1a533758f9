"""Push of blobs: sessions, chunks, mounts (distribution-spec end-4, 5, 6, 11, 13, 14)."""

import re
import uuid
from contextlib import suppress
from dataclasses import replace

from dtr.accounts.permits import may_pull
from dtr.asgi import ClientDisconnectError, Request, Response
from dtr.asgi.conditions import Conditions
from dtr.database import Writer
from dtr.model.access import Principal
from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import (
    BlobUnknownError,
    DeniedError,
    DigestInvalidError,
    NameInvalidError,
    NameUnknownError,
    QuotaExceededError,
    ReadOnlyError,
    ReferencedError,
    RegistryError,
    RequestTimeoutError,
    SizeInvalidError,
    StorageFullError,
    UnauthorizedError,
    UnavailableError,
    UnknownError,
    UploadInvalidError,
    UploadRangeError,
    UploadUnknownError,
)
from dtr.model.names import RepositoryName
from dtr.registry import records
from dtr.registry.context import RegistryContext
from dtr.registry.deletion import delete_by_edges
from dtr.registry.records import Blob, Upload
from dtr.storage import BlobWriter, Progress

_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,19})-(\d{1,19})(?:/(?:\d+|\*))?\Z", re.ASCII)
_FRESH_SECONDS = 30.0
"""A session that was opened so short a time ago is about to be used."""
_FIRST_KEPT_SECONDS = 10.0
_KEPT_SECONDS = 60.0
_LONGEST_RETRY_SECONDS = 3600.0
_REFUSALS = (UnauthorizedError, DeniedError, UnknownError, ReadOnlyError)


class Uploads:
    """Everything below `/v2/<name>/blobs/uploads/`.

    POST, PATCH and PUT of one upload may land on different processes: what they share is the
    session's row and what storage staged.
    """

    def __init__(self, context: RegistryContext) -> None:
        self._context = context
        self._settings = context.settings

    async def start(self, request: Request) -> Response:
        """Answer POST: mount a blob, take one whole, or open a session (end-4a, 4b, 4c, 11)."""
        name = request.name
        if request.repository is None and not self._settings.create_on_push:
            raise NameUnknownError("repositories must be created before a push", name=str(name))
        if request.repository is None:
            # A first push that finds no room makes no repository, not even for a while.
            await self._context.store.check_room()
        mount = request.query("mount")
        if mount is not None and await self._mount(request, Digest.parse(mount)):
            return _created(name, Digest.parse(mount))
        digest = request.query("digest")
        if digest is not None:
            return await self._whole(request, Digest.parse(digest))
        algorithm = Algorithm.parse(request.query("digest-algorithm") or Algorithm.SHA256)
        if mount is not None:
            algorithm = Digest.parse(mount).algorithm
        upload = await self._open_session(request, algorithm)
        return _session(name, upload, 202)

    async def append(self, request: Request) -> Response:
        """Answer PATCH: take the next chunk (end-5)."""
        upload, writer = await self._resume(request)
        try:
            upload = await self._take_chunk(request, upload, writer)
        except UploadUnknownError:
            raise await self._moved(request, upload) from None
        except StorageFullError:
            await self._give_up_first(request, upload, writer)
            raise
        finally:
            await writer.close()
        return _session(request.name, upload, 202)

    async def _take_chunk(self, request: Request, upload: Upload, writer: BlobWriter) -> Upload:
        """Take what is sent and record it; return the session as it is then."""
        try:
            await self._receive(request, writer, upload)
            _check_end(request, writer.offset)
        except (ClientDisconnectError, RequestTimeoutError):
            # What arrived is kept, so that the client can ask where it is and go on.
            await self._save(request, upload, writer)
            raise
        return await self._save(request, upload, writer)

    async def finish(self, request: Request) -> Response:
        """Answer PUT: take the last chunk, if any, verify and commit (end-6)."""
        digest = _digest_parameter(request)
        upload, writer = await self._resume(request)
        try:
            await self._receive(request, writer, upload)
            _check_end(request, writer.offset)
            await self._commit(request, upload, writer, digest)
        except DigestInvalidError:
            await self._give_up(upload, writer)
            raise
        except (ClientDisconnectError, RequestTimeoutError):
            await self._save(request, upload, writer)
            raise
        except UploadUnknownError:
            raise await self._moved(request, upload) from None
        except StorageFullError:
            await self._give_up_first(request, upload, writer)
            raise
        finally:
            await writer.close()
        return _created(request.name, digest)

    async def status(self, request: Request) -> Response:
        """Answer GET: where the upload is (end-13)."""
        return _session(request.name, await self._find(request), 204)

    async def cancel(self, request: Request) -> Response:
        """Answer DELETE: forget the upload (end-14)."""
        upload = await self._find(request)
        progress = await self._context.gate.write(
            records.take_upload, request, upload.id, forget_empty=self._settings.create_on_push
        )
        await self._context.store.discard(upload.id, progress or Progress())
        return Response(204)

    async def delete_blob(self, request: Request) -> Response:
        """Answer DELETE of a blob, unless a manifest of the repository needs it (end-10)."""
        repository = request.existing_repository()
        digest = Digest.parse(request.parameters["digest"])
        conditions = Conditions.of(request.headers)
        await delete_by_edges(
            self._context.database,
            repository.id,
            lambda: self._context.gate.write(
                _delete_blob, request, repository.id, digest, conditions
            ),
        )
        return Response(202)

    async def _mount(self, request: Request, digest: Digest) -> bool:
        """Link a blob that a repository which the principal may pull from has (end-11)."""
        for source_id in await self._sources(request, digest):
            if await self._context.gate.write(
                _mount_blob,
                request,
                request.name,
                source_id,
                digest,
                principal=request.principal,
                review_at=self._review_at(),
            ):
                return True
        return False

    async def _sources(self, request: Request, digest: Digest) -> list[int]:
        """Return the repositories that a blob may be mounted from."""
        named = request.query("from")
        if named is None:
            return await self._context.database.read(
                records.mount_sources, digest, request.principal
            )
        try:
            source = RepositoryName.parse(named)
        except NameInvalidError:
            return []
        found = await self._context.gate.source_of_mount(request, source)
        return [] if found is None else [found]

    async def _whole(self, request: Request, digest: Digest) -> Response:
        """Take a blob that came with its POST (end-4b)."""
        upload = self._new_upload(request, digest.algorithm)
        writer = await self._context.store.begin(upload.id, digest.algorithm)
        try:
            await self._receive(request, writer)
            await self._commit(request, upload, writer, digest, has_session=False)
        except BaseException:
            await writer.cancel()
            raise
        finally:
            await writer.close()
        return _created(request.name, digest)

    async def _open_session(self, request: Request, algorithm: Algorithm) -> Upload:
        upload = self._new_upload(request, algorithm)
        await self._make_room(request, upload.account_id)
        return await self._context.gate.write_soon(
            _open_upload, request, request.name, upload, now=self._context.clock()
        )

    async def _make_room(self, request: Request, account_id: int) -> None:
        """Have the account's oldest sessions without a byte give way, where it has too many.

        Raises:
            QuotaExceededError: every one has bytes, or was opened a moment ago.

        """
        database, most = self._context.database, self._settings.upload_sessions_per_account
        row = await database.lookup(records.COUNT_UPLOADS, {"account_id": account_id})
        if row is None or row[0] < most:
            return
        now = self._context.clock()
        idle_until = now + self._empty_seconds - _FRESH_SECONDS
        dropped = await self._context.gate.write(
            records.take_empty_uploads,
            request,
            account_id,
            idle_until=idle_until,
            most=row[0] - most + 1,
            own=[str(request.name)] if request.principal.scope is not None else [],
            forget_empty=self._settings.create_on_push,
        )
        for upload_id in dropped:
            await self._context.store.discard(upload_id)
        if not dropped:
            raise QuotaExceededError(
                f"this account has {most} uploads open; finish or cancel some",
                limit=most,
                retry_after_seconds=min(max(row[1] - now, 1), _LONGEST_RETRY_SECONDS),
            )

    def _new_upload(self, request: Request, algorithm: Algorithm) -> Upload:
        """Return a session that is recorded nowhere.

        0 is a repository that is yet to be made, also one that may go before this is recorded.
        """
        return Upload(
            id=str(uuid.uuid4()),
            repository_id=(request.repository and request.repository.lasting_id) or 0,
            account_id=request.principal.account_id or 0,
            algorithm=algorithm,
            progress=Progress(),
            expires_at=self._context.clock() + self._empty_seconds,
        )

    async def _find(self, request: Request) -> Upload:
        """Return the session, which only its repository and its principal know (CVE-2026-32589)."""
        repository = request.repository
        if repository is None:  # the session may have been all that it had
            raise UploadUnknownError(upload=request.parameters["upload"][:64])
        row = await self._context.database.lookup(
            records.UPLOAD,
            {
                "id": request.parameters["upload"],
                "repository_id": repository.id,
                "account_id": request.principal.account_id or 0,
            },
        )
        upload = records.upload_of(row) if row else None
        if upload is None or upload.expires_at <= self._context.clock():
            raise UploadUnknownError(upload=request.parameters["upload"][:64])
        return upload

    async def _resume(self, request: Request) -> tuple[Upload, BlobWriter]:
        """Return the session, held by this request alone, and a writer at its end.

        Raises:
            UploadRangeError: the chunk begins elsewhere, or another request moved the end.
            UploadBusyError: another request holds it.

        """
        upload = await self._find(request)
        _check_start(request, upload)
        writer = await self._context.store.resume(upload.id, upload.algorithm, upload.progress)
        try:
            now = await self._find(request)
            if not _is_same(now.progress, upload.progress):
                raise _continued_elsewhere(now)  # noqa: TRY301
        except BaseException:
            await writer.close()
            raise
        return upload, writer

    async def _moved(self, request: Request, upload: Upload) -> RegistryError:
        """Return what to say where the upload's bytes are gone: another request may have won.

        Raises:
            UploadUnknownError: the session is over.

        """
        now = await self._find(request)
        if _is_same(now.progress, upload.progress):
            return UploadUnknownError(upload=upload.id)
        return _continued_elsewhere(now)

    async def _receive(
        self, request: Request, writer: BlobWriter, upload: Upload | None = None
    ) -> None:
        """Take the body; while it arrives, its session does not end, and the right is asked for."""
        limit, clock = self._settings.blob_bytes - writer.offset, self._context.clock
        # One that was opened a while ago could end, or give way, before it is kept the first time.
        left = upload.expires_at - clock() if upload is not None else self._empty_seconds
        is_fresh = left > self._empty_seconds - _FRESH_SECONDS + _FIRST_KEPT_SECONDS
        next_at = clock() + (_FIRST_KEPT_SECONDS if is_fresh else 0.0)
        async for chunk in request.stream(limit=limit):
            await writer.append(chunk)
            if upload is not None and clock() >= next_at:
                await self._context.gate.write_soon(
                    records.keep_upload, request, upload.id, self._expires_at()
                )
                next_at = clock() + _KEPT_SECONDS
        await self._context.read_only.require()  # it may have been turned on meanwhile

    async def _save(self, request: Request, upload: Upload, writer: BlobWriter) -> Upload:
        """Write and record what arrived, so that any process can go on from there.

        Raises:
            UploadRangeError: another request that began at the same place was recorded first.
            UnavailableError: these bytes may have been recorded, so they are left where they are.

        """
        progress = await writer.flush()
        expires_at = self._expires_at()
        is_there = await self._context.gate.write_soon(
            records.advance_upload,
            request,
            upload.id,
            start=upload.progress,
            progress=progress,
            expires_at=expires_at,
        )
        if is_there is None:
            raise UnavailableError("whether these bytes were recorded is not known; ask again")
        if not is_there:
            await writer.cancel()
            raise await self._moved(request, upload)
        await writer.recorded()
        return replace(upload, progress=progress, expires_at=expires_at)

    async def _give_up(self, upload: Upload, writer: BlobWriter) -> None:
        """End a session whose content is not what it was said to be, if it is still there."""
        is_over = await self._removed(upload)
        await writer.cancel()
        if is_over:
            await self._context.store.discard(upload.id, upload.progress)

    async def _give_up_first(self, request: Request, upload: Upload, writer: BlobWriter) -> None:
        """End a session for which there is no room, if it is all that made its repository."""
        repository = request.repository
        if repository is not None and repository.is_provisional:
            with suppress(UnavailableError):  # then it ends when it expires
                await self._give_up(upload, writer)

    async def _removed(self, upload: Upload) -> bool:
        """Remove a session of which nothing comes; return whether it was still as it was."""
        return await self._context.database.write(
            records.give_up_upload, upload, forget_empty=self._settings.create_on_push
        )

    async def _commit(
        self,
        request: Request,
        upload: Upload,
        writer: BlobWriter,
        digest: Digest,
        *,
        has_session: bool = True,
    ) -> None:
        """Make the bytes durable, then the metadata that makes them readable.

        Where the metadata refuse them, because the session was moved or the right to push is gone,
        the bytes are taken back; a session that went on from them is over.
        """
        size = writer.offset
        key = await writer.commit(digest)
        try:
            is_used = await self._context.gate.write(
                _commit_blob,
                request,
                request.name,
                upload,
                Blob(digest, size, key, writer.holders),
                has_session=has_session,
                now=self._context.clock(),
                review_at=self._review_at(),
            )
        except _REFUSALS as error:
            await writer.withdraw()
            if has_session and not isinstance(error, UploadUnknownError):
                await self._removed(upload)
            raise
        await writer.recorded()
        if not is_used:
            # Somebody else was first with the same content; theirs is kept.
            await self._context.store.delete(key)

    @property
    def _empty_seconds(self) -> float:
        settings = self._settings
        return min(settings.empty_upload_ttl_seconds, settings.upload_ttl_seconds)

    def _review_at(self) -> float:
        return self._context.clock() + self._settings.grace_seconds

    def _expires_at(self) -> float:
        return self._context.clock() + self._settings.upload_ttl_seconds


def _open_upload(writer: Writer, name: RepositoryName, upload: Upload, *, now: float) -> Upload:
    if not upload.repository_id:
        upload = replace(
            upload, repository_id=records.ensure_repository(writer, name, is_provisional=True).id
        )
    records.add_upload(writer, upload, now)
    return upload


def _commit_blob(
    writer: Writer,
    name: RepositoryName,
    upload: Upload,
    blob: Blob,
    *,
    has_session: bool,
    now: float,
    review_at: float,
) -> bool:
    """Make a blob readable in the upload's repository; return False when nobody needed its bytes.

    Raises:
        UploadUnknownError: the session is over, or another request moved it.

    """
    repository_id = (
        upload.repository_id or records.ensure_repository(writer, name, is_provisional=True).id
    )
    if has_session and not records.remove_upload(writer, upload.id, upload.progress):
        # Perhaps this very unit ran before, and its answer was lost. Then its bytes must not be
        # taken back, whatever became of the blob in this repository since.
        is_over = records.upload_progress(writer, upload.id) is None
        found = records.find_blob(writer, blob.digest)
        ran_before = found is not None and found[0].storage_key == blob.storage_key
        is_missing = records.missing_blobs(writer, repository_id, [blob.digest])
        if not is_over or (is_missing and not ran_before):
            raise UploadUnknownError(upload=upload.id)
        return records.is_stored(writer, blob.storage_key)
    is_used = records.store_blob(writer, blob, now)
    records.link_blob(writer, repository_id, blob.digest, review_at)
    return is_used


def _is_same(now: Progress, before: Progress) -> bool:
    return (now.offset, now.state) == (before.offset, before.state)


def _continued_elsewhere(upload: Upload) -> UploadRangeError:
    message = "another request continued this upload at the same time"
    return UploadRangeError(message, offset=upload.progress.offset)


def _mount_blob(
    writer: Writer,
    name: RepositoryName,
    source_id: int,
    digest: Digest,
    *,
    principal: Principal,
    review_at: float,
) -> bool:
    """Link a blob of the source, if the principal may pull from it; return whether it did."""
    if not may_pull(writer, principal, source_id):
        return False
    if records.missing_blobs(writer, source_id, [digest]):
        return False
    target = records.ensure_repository(writer, name, is_provisional=True)
    records.link_blob(writer, target.id, digest, review_at)
    return True


def _delete_blob(
    writer: Writer, repository_id: int, digest: Digest, conditions: Conditions | None = None
) -> bool:
    """Delete a blob that no manifest needs (`Deletion`)."""
    if writer.ran_before(is_noted=False):
        return True
    if not records.has_all_edges(writer, repository_id):
        return False
    writer.ran_before()
    referring = records.referring_manifest(writer, repository_id, digest)
    if referring is not None and not records.missing_blobs(writer, repository_id, [digest]):
        message = "a manifest of this repository needs the blob; delete the manifest first"
        raise ReferencedError(message, manifest=referring)
    if not records.unlink_blob(writer, repository_id, digest):
        raise BlobUnknownError(digest=str(digest))
    if conditions is not None:
        conditions.require(digest)
    return True


def _digest_parameter(request: Request) -> Digest:
    text = request.query("digest")
    if text is None:
        raise DigestInvalidError("a PUT that closes an upload needs ?digest=<digest>")
    return Digest.parse(text)


def _check_start(request: Request, upload: Upload) -> None:
    """Refuse a chunk that leaves a gap or overlaps what is here."""
    declared = _content_range(request)
    offset = upload.progress.offset
    if declared is not None and declared[0] != offset:
        raise UploadRangeError(
            f"chunk begins at {declared[0]}, the upload ends at {offset}", offset=offset
        )


def _check_end(request: Request, offset: int) -> None:
    declared = _content_range(request)
    if declared is not None and declared[1] + 1 != offset:
        message = f"Content-Range announced bytes up to {declared[1]}, {offset - 1} was the last"
        raise SizeInvalidError(message)


def _content_range(request: Request) -> tuple[int, int] | None:
    text = request.header(b"content-range")
    if not text:
        return None
    match = _CONTENT_RANGE.match(text)
    if match is None or int(match[1]) > int(match[2]):
        raise UploadInvalidError("Content-Range must be <first>-<last>", content_range=text[:64])
    return int(match[1]), int(match[2])


def _session(name: RepositoryName, upload: Upload, status: int) -> Response:
    response = Response(status)
    response.add(b"location", f"/v2/{name}/blobs/uploads/{upload.id}")
    response.add(b"range", f"0-{max(upload.progress.offset - 1, 0)}")
    response.add(b"docker-upload-uuid", upload.id)
    return response


def _created(name: RepositoryName, digest: Digest) -> Response:
    response = Response(201)
    response.add(b"location", f"/v2/{name}/blobs/{digest}")
    response.add(b"docker-content-digest", digest)
    return response
