"""Push and delete of manifests and tags (distribution-spec end-7, end-9)."""

from collections.abc import Sequence
from dataclasses import dataclass

from dtr.asgi import Request, Response
from dtr.asgi.conditions import Conditions
from dtr.database import Reader, Writer
from dtr.model.away import away_from_loop
from dtr.model.digest import Digest
from dtr.model.errors import (
    DigestInvalidError,
    ManifestBlobUnknownError,
    ManifestTooLargeError,
    ManifestUnknownError,
    NameUnknownError,
    ParameterInvalidError,
    ReferencedError,
    TooLargeError,
    UnavailableError,
)
from dtr.model.manifests import Manifest
from dtr.model.names import Reference, RepositoryName, TagName, parse_reference
from dtr.registry import records
from dtr.registry.context import RegistryContext
from dtr.registry.deletion import delete_by_edges
from dtr.registry.parsing import Turns, parsed

_MAX_TAGS = 100
_WARNED_REFERENCES = 3


@dataclass(frozen=True, slots=True)
class Precondition:
    """What must be true of a tag or a manifest for a request to change it (RFC 9110 13.1)."""

    reference: Reference
    conditions: Conditions

    @classmethod
    def of(cls, request: Request, reference: Reference) -> "Precondition | None":
        """Return a request's precondition, or None where it has none."""
        conditions = Conditions.of(request.headers)
        return None if conditions is None else cls(reference, conditions)

    def require(self, reader: Reader, repository_id: int) -> None:
        """Make sure that it is true in this transaction.

        Raises:
            PreconditionFailedError: it is not.

        """
        self.conditions.require(records.digest_now(reader, repository_id, self.reference))


@dataclass(frozen=True, slots=True)
class PushedManifest:
    """A manifest on its way in: what it is, its very bytes, and the tags that shall point at it."""

    digest: Digest
    payload: bytes
    manifest: Manifest
    tags: Sequence[TagName]
    account_id: int | None
    precondition: Precondition | None = None


class Push:
    """PUT and DELETE of manifests."""

    def __init__(self, context: RegistryContext) -> None:
        self._context = context
        self._settings = context.settings
        self._turns = Turns()

    async def put(self, request: Request) -> Response:
        """Answer PUT: keep the manifest and point its tags at it, all at once (end-7a, 7b)."""
        name = request.name
        if request.repository is None and not self._settings.create_on_push:
            raise NameUnknownError("repositories must be created before a push", name=str(name))
        reference = parse_reference(request.parameters["reference"])
        tags = _tags(request, reference)
        payload = await self._payload(request)
        content_type = request.header(b"content-type")

        def read() -> tuple[Manifest, Digest]:
            manifest = parsed(payload, content_type, self._settings.manifest)
            return manifest, _digest_of(payload, reference)

        with self._turns.taken(len(payload)):
            manifest, digest = await away_from_loop(len(payload), read)
        account_id, precondition = request.principal.account_id, Precondition.of(request, reference)
        pushed = PushedManifest(digest, payload, manifest, tags, account_id, precondition)
        await self._context.read_only.require()  # it may have been turned on meanwhile
        missing = await self._context.gate.write(
            put_manifest,
            request,
            name,
            pushed,
            now=self._context.clock(),
            untagged_grace_seconds=self._settings.untagged_grace_seconds,
            accept_missing=self._settings.accept_missing_references,
        )
        return _created(name, pushed, missing)

    async def delete(self, request: Request) -> Response:
        """Answer DELETE of a tag, or of a manifest with its tags (end-9)."""
        repository = request.existing_repository()
        reference = parse_reference(request.parameters["reference"])
        conditions = Conditions.of(request.headers)
        now = self._context.clock()
        untagged_at = now + self._settings.untagged_grace_seconds
        if isinstance(reference, TagName):
            await self._context.gate.write(
                _delete_tag,
                request,
                repository.id,
                reference,
                review_at=untagged_at,
                conditions=conditions,
            )
        else:
            await delete_by_edges(
                self._context.database,
                repository.id,
                lambda: self._context.gate.write(
                    delete_manifest,
                    request,
                    repository.id,
                    reference,
                    blobs_review_at=now + self._settings.grace_seconds,
                    manifests_review_at=untagged_at,
                    conditions=conditions,
                ),
            )
        return Response(202)

    async def _payload(self, request: Request) -> bytes:
        limit = self._settings.manifest_bytes
        try:
            return await request.content(limit=limit)
        except TooLargeError:
            message = f"manifest is larger than {limit} bytes"
            raise ManifestTooLargeError(message, limit=limit) from None


def put_manifest(
    writer: Writer,
    name: RepositoryName,
    pushed: PushedManifest,
    *,
    now: float,
    untagged_grace_seconds: float,
    accept_missing: bool,
) -> list[Digest]:
    """Keep a manifest and move its tags; return what it refers to that is not here.

    Raises:
        ManifestBlobUnknownError: something is not here and `accept_missing` is false.
        PreconditionFailedError: its precondition is not true.

    """
    repository = records.ensure_repository(writer, name)
    manifest = pushed.manifest
    missing = records.missing_references(writer, repository.id, manifest.needed)
    if missing and not accept_missing:
        raise ManifestBlobUnknownError(missing)
    if writer.ran_before():  # its tags may have moved on meanwhile
        return missing
    if pushed.precondition is not None:
        pushed.precondition.require(writer, repository.id)
    added = records.add_manifest(
        writer, repository.id, pushed.digest, pushed.payload, manifest, now
    )
    manifest_id = added or records.find_manifest_id(writer, repository.id, pushed.digest)
    if manifest_id is None:
        raise UnavailableError("the manifest was deleted at the same moment; push it again")
    if repository.is_provisional:
        records.settle_repository(writer, repository.id)
    untagged_at = now + untagged_grace_seconds
    for tag in pushed.tags:
        before = records.put_tag(
            writer, repository.id, tag, manifest_id, account_id=pushed.account_id, now=now
        )
        if before is not None:
            records.review_untagged(writer, before, untagged_at)
    if added or not pushed.tags:
        # A manifest that is pushed again without a tag has its time anew, as one that is new.
        is_kept = bool(pushed.tags) or records.is_tagged(writer, manifest_id)
        records.review_manifest(writer, manifest_id, None if is_kept else untagged_at)
    return missing


def _delete_tag(
    writer: Writer,
    repository_id: int,
    tag: TagName,
    *,
    review_at: float,
    conditions: Conditions | None = None,
) -> None:
    if writer.ran_before():
        return
    current = records.digest_now(writer, repository_id, tag) if conditions else None
    manifest_id = records.remove_tag(writer, repository_id, tag)
    if manifest_id is None:
        raise ManifestUnknownError(tag=tag)
    if conditions is not None:
        conditions.require(current)
    records.review_untagged(writer, manifest_id, review_at)


def delete_manifest(
    writer: Writer,
    repository_id: int,
    digest: Digest,
    *,
    blobs_review_at: float,
    manifests_review_at: float,
    conditions: Conditions | None = None,
) -> bool:
    """Delete a manifest and its tags, unless another manifest of the repository refers to it.

    Returns False, having done nothing, where some edges have to be made first (`Deletion`).

    Raises:
        ManifestUnknownError: it is not here.
        PreconditionFailedError: the request's conditions do not hold.
        ReferencedError: an index, or another manifest, refers to it.

    """
    if writer.ran_before(is_noted=False):
        return True
    if not records.has_all_edges(writer, repository_id):
        return False
    writer.ran_before()
    manifest_id = records.find_manifest_id(writer, repository_id, digest)
    if manifest_id is None:
        raise ManifestUnknownError(digest=str(digest))
    index = records.referring_manifest(writer, repository_id, digest)
    if index is not None:
        message = "an index of this repository needs the manifest; delete the index first"
        raise ReferencedError(message, index=index)
    if conditions is not None:
        conditions.require(digest)
    records.remove_manifest(
        writer,
        manifest_id,
        blobs_review_at=blobs_review_at,
        manifests_review_at=manifests_review_at,
    )
    return True


def _tags(request: Request, reference: Reference) -> list[TagName]:
    """Return the tags that the path or the `tag` parameters name (end-7b)."""
    parameters = request.query_all("tag")
    if isinstance(reference, TagName):
        if parameters:
            raise ParameterInvalidError("tag parameters go with a push by digest")
        return [reference]
    if len(parameters) > _MAX_TAGS:
        raise ParameterInvalidError(f"more than {_MAX_TAGS} tags in one push", limit=_MAX_TAGS)
    return [TagName.parse(tag) for tag in dict.fromkeys(parameters)]


def _digest_of(payload: bytes, reference: Reference) -> Digest:
    if isinstance(reference, TagName):
        return Digest.of(payload)
    found = Digest.of(payload, reference.algorithm)
    if found != reference:
        message = "the manifest does not have the digest that it was pushed by"
        raise DigestInvalidError(message, digest=str(reference), found=str(found))
    return found


def _created(name: RepositoryName, pushed: PushedManifest, missing: Sequence[Digest]) -> Response:
    response = Response(201)
    response.add(b"location", f"/v2/{name}/manifests/{pushed.digest}")
    response.add(b"docker-content-digest", pushed.digest)
    if pushed.manifest.subject is not None:
        response.add(b"oci-subject", pushed.manifest.subject)
    for tag in pushed.tags:
        response.add(b"oci-tag", tag)
    if missing:
        shown = ", ".join(missing[:_WARNED_REFERENCES])
        response.add(b"warning", f'299 - "{len(missing)} references are not here: {shown}"')
    return response
