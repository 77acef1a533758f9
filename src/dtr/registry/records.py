"""Statements about repositories, blobs, manifests, tags and uploads: the hot lookups first."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import and_, bindparam, delete, exists, func, insert, or_, select, update

from dtr.database import Change, Lookup, Reader, Writer
from dtr.database.schema import (
    accounts,
    blobs,
    grants,
    manifest_references,
    manifests,
    repositories,
    repository_blobs,
    tags,
    uploads,
)
from dtr.model.access import Principal, Repository, Visibility
from dtr.model.digest import Algorithm, Digest
from dtr.model.manifests import Manifest
from dtr.model.names import RepositoryName
from dtr.storage import Progress

LIVE = "live"
_IN_ONE_STATEMENT = 500


@dataclass(frozen=True, slots=True)
class Blob:
    """Committed content as the metadata knows it."""

    digest: Digest
    size: int
    storage_key: str


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload session."""

    id: str
    repository_id: int
    account_id: int
    algorithm: Algorithm
    progress: Progress
    expires_at: float


MANIFEST_BY_TAG = Lookup(
    select(manifests.c.digest, manifests.c.media_type, manifests.c.payload, manifests.c.review_at)
    .join_from(tags, manifests, manifests.c.id == tags.c.manifest_id)
    .where(
        tags.c.repository_id == bindparam("repository_id"), tags.c.name == bindparam("reference")
    )
)
MANIFEST_BY_DIGEST = Lookup(
    select(
        manifests.c.digest, manifests.c.media_type, manifests.c.payload, manifests.c.review_at
    ).where(
        manifests.c.repository_id == bindparam("repository_id"),
        manifests.c.digest == bindparam("reference"),
    )
)
BLOB = Lookup(
    select(blobs.c.digest, blobs.c.size, blobs.c.storage_key, repository_blobs.c.review_at)
    .join_from(repository_blobs, blobs, blobs.c.digest == repository_blobs.c.digest)
    .where(
        repository_blobs.c.repository_id == bindparam("repository_id"),
        repository_blobs.c.digest == bindparam("digest"),
        blobs.c.state == LIVE,
    )
)
UPLOAD = Lookup(
    select(
        uploads.c.id,
        uploads.c.repository_id,
        uploads.c.account_id,
        uploads.c.algorithm,
        uploads.c.offset,
        uploads.c.digest,
        uploads.c.expires_at,
    ).where(
        uploads.c.id == bindparam("id"),
        uploads.c.repository_id == bindparam("repository_id"),
        uploads.c.account_id == bindparam("account_id"),
    )
)
TAG_PAGE = Lookup(
    select(tags.c.name)
    .where(tags.c.repository_id == bindparam("repository_id"), tags.c.name > bindparam("last"))
    .order_by(tags.c.name)
    .limit(bindparam("count"))
)
REFERRER_PAGE = Lookup(
    select(
        manifests.c.digest,
        manifests.c.media_type,
        manifests.c.size,
        manifests.c.artifact_type,
        manifests.c.annotations,
    )
    .where(
        manifests.c.repository_id == bindparam("repository_id"),
        manifests.c.subject == bindparam("subject"),
        manifests.c.digest > bindparam("last"),
        or_(bindparam("every"), manifests.c.artifact_type == bindparam("artifact_type")),
    )
    .order_by(manifests.c.digest)
    .limit(bindparam("count"))
)
CATALOG_PAGE = Lookup(
    select(repositories.c.name)
    .where(repositories.c.name > bindparam("last"))
    .order_by(repositories.c.name)
    .limit(bindparam("count"))
)
CATALOG_PAGE_OF_ACCOUNT = Lookup(
    select(repositories.c.name)
    .where(
        repositories.c.name > bindparam("last"),
        or_(
            repositories.c.visibility == str(Visibility.PUBLIC),
            repositories.c.namespace_id == bindparam("account_id"),
            exists().where(
                grants.c.account_id == bindparam("account_id"),
                or_(
                    grants.c.repository_id == repositories.c.id,
                    grants.c.namespace_id == repositories.c.namespace_id,
                ),
            ),
        ),
    )
    .order_by(repositories.c.name)
    .limit(bindparam("count"))
)


FIND_REPOSITORY = Lookup(
    select(repositories.c.id, repositories.c.namespace_id, repositories.c.visibility).where(
        repositories.c.name == bindparam("name")
    )
)
COUNT_UPLOADS = Lookup(
    select(func.count()).select_from(uploads).where(uploads.c.account_id == bindparam("account_id"))
)
ADD_UPLOAD = Change(insert(uploads))
ADVANCE_UPLOAD = Change(
    update(uploads)
    .where(
        uploads.c.id == bindparam("upload_id"),
        or_(
            uploads.c.offset == bindparam("start"),
            # This very unit ran before. Other bytes up to the same offset are not the same.
            and_(
                uploads.c.offset == bindparam("stop"),
                uploads.c.digest.is_not_distinct_from(bindparam("so_far")),
            ),
        ),
    )
    .values(offset=bindparam("stop"), digest=bindparam("so_far"), expires_at=bindparam("until"))
)
REMOVE_UPLOAD = Change(delete(uploads).where(uploads.c.id == bindparam("id")))
FIND_BLOB = Lookup(
    select(blobs.c.digest, blobs.c.size, blobs.c.storage_key, blobs.c.state).where(
        blobs.c.digest == bindparam("digest")
    )
)
ADD_BLOB = Change(
    insert(blobs).values(
        digest=bindparam("digest"),
        size=bindparam("size"),
        storage_key=bindparam("storage_key"),
        state=LIVE,
        created_at=bindparam("now"),
    )
)
REVIVE_BLOB = Change(
    update(blobs)
    .where(blobs.c.digest == bindparam("which"))
    .values(
        size=bindparam("size"),
        storage_key=bindparam("storage_key"),
        state=LIVE,
        created_at=bindparam("now"),
    )
)
FIND_LINK = Lookup(
    select(repository_blobs.c.review_at).where(
        repository_blobs.c.repository_id == bindparam("repository_id"),
        repository_blobs.c.digest == bindparam("digest"),
    )
)
ADD_LINK = Change(insert(repository_blobs))
KEEP_LINK = Change(
    update(repository_blobs)
    .where(
        repository_blobs.c.repository_id == bindparam("in_repository"),
        repository_blobs.c.digest == bindparam("which"),
    )
    .values(review_at=bindparam("until"))
)


def blob_of(row: Sequence[Any]) -> Blob:
    """Return the blob in the first three columns of a `BLOB` row."""
    return Blob(Digest(row[0]), row[1], row[2])


def upload_of(row: Sequence[Any]) -> Upload:
    """Return the upload in an `UPLOAD` row."""
    digest = None if row[5] is None else Digest(row[5])
    return Upload(row[0], row[1], row[2], Algorithm(row[3]), Progress(row[4], digest), row[6])


def ensure_repository(
    writer: Writer, name: RepositoryName, visibility: Visibility = Visibility.PRIVATE
) -> Repository:
    """Return the repository called `name`, created, with its namespace, when it is missing."""
    row = writer.first(FIND_REPOSITORY, {"name": name})
    if row is None:
        namespace_id = _ensure_namespace(writer, name.namespace)
        values = {
            "namespace_id": namespace_id,
            "name": str(name),
            "visibility": str(visibility),
            "created_at": time.time(),
        }
        writer.execute(insert(repositories).values(values))
        row = writer.first(FIND_REPOSITORY, {"name": name})
    assert row is not None  # noqa: S101 - it was inserted in this very transaction
    return Repository(row[0], name, row[1], Visibility(row[2]))


def _ensure_namespace(writer: Writer, name: str) -> int:
    found = writer.scalar(select(accounts.c.id).where(accounts.c.name == name))
    if found is not None:
        return int(found)
    values = {
        "name": name,
        "kind": "organization",
        "is_admin": False,
        "is_active": True,
        "epoch": 1,
        "created_at": time.time(),
    }
    return int(writer.scalar(insert(accounts).values(values).returning(accounts.c.id)))


def add_upload(writer: Writer, upload: Upload, now: float) -> None:
    """Insert an upload session."""
    writer.change(
        ADD_UPLOAD,
        {
            "id": upload.id,
            "repository_id": upload.repository_id,
            "account_id": upload.account_id,
            "algorithm": str(upload.algorithm),
            "offset": upload.progress.offset,
            "digest": upload.progress.digest,
            "created_at": now,
            "expires_at": upload.expires_at,
        },
    )


def count_uploads(reader: Reader, account_id: int) -> int:
    """Return how many upload sessions an account has open."""
    row = reader.first(COUNT_UPLOADS, {"account_id": account_id})
    return int(row[0]) if row else 0


def count_all_uploads(reader: Reader) -> int:
    """Return how many upload sessions are open."""
    return int(reader.scalar(select(func.count()).select_from(uploads)))


def advance_upload(
    writer: Writer, upload_id: str, *, start: int, progress: Progress, expires_at: float
) -> bool:
    """Move an upload from `start` to `progress`; return False when it is not there any more."""
    parameters = {
        "upload_id": upload_id,
        "start": start,
        "stop": progress.offset,
        "so_far": progress.digest,
        "until": expires_at,
    }
    return writer.change(ADVANCE_UPLOAD, parameters) == 1


def remove_upload(writer: Writer, upload_id: str) -> bool:
    """Delete an upload session; return whether it was there."""
    return writer.change(REMOVE_UPLOAD, {"id": upload_id}) == 1


def forget_upload_digests(writer: Writer) -> None:
    """Have the bytes of every open upload read again when it commits."""
    writer.execute(update(uploads).where(uploads.c.digest.is_not(None)).values(digest=None))


def expired_uploads(reader: Reader, now: float, count: int) -> list[str]:
    """Return ids of sessions that nobody continued in time."""
    statement = select(uploads.c.id).where(uploads.c.expires_at <= now).limit(count)
    return [row[0] for row in reader.execute(statement)]


def find_blob(reader: Reader, digest: Digest) -> tuple[Blob, str] | None:
    """Return a blob of the registry and its state, whoever has it."""
    row = reader.first(FIND_BLOB, {"digest": digest})
    return (blob_of(row), str(row[3])) if row else None


def store_blob(writer: Writer, blob: Blob, now: float) -> bool:
    """Make a blob live with these bytes; return False when it is live with others.

    A condemned row is taken over: whoever deletes its bytes knows them by the old key.
    """
    found = find_blob(writer, blob.digest)
    values = {"size": blob.size, "storage_key": blob.storage_key, "now": now}
    if found is None:
        writer.change(ADD_BLOB, {"digest": blob.digest, **values})
        return True
    if found[1] == LIVE:
        return found[0].storage_key == blob.storage_key  # if this very unit ran before
    writer.change(REVIVE_BLOB, {"which": blob.digest, **values})
    return True


def link_blob(writer: Writer, repository_id: int, digest: Digest, review_at: float) -> None:
    """Let a repository read a blob, and keep it at least until `review_at`."""
    link = {"repository_id": repository_id, "digest": digest}
    found = writer.first(FIND_LINK, link)
    # A link that collection has put aside (null) has a manifest; it needs no new review.
    if found is None:
        writer.change(ADD_LINK, {**link, "review_at": review_at})
    elif found[0] is not None and found[0] < review_at:
        parameters = {"in_repository": repository_id, "which": digest, "until": review_at}
        writer.change(KEEP_LINK, parameters)


def unlink_blob(writer: Writer, repository_id: int, digest: Digest) -> bool:
    """Take a blob out of a repository; collection takes the bytes when nobody has it.

    The blob is condemned here when this was its last link. Returns False when there was no link.
    """
    removed = writer.execute(
        delete(repository_blobs).where(
            repository_blobs.c.repository_id == repository_id,
            repository_blobs.c.digest == digest,
        )
    ).rowcount
    if removed:
        condemn_unlinked(writer, digest)
    return removed == 1


def condemn_unlinked(writer: Writer, digest: Digest) -> bool:
    """Mark a blob for deletion if no repository links it; return whether it was marked."""
    linked = exists().where(repository_blobs.c.digest == digest)
    return (
        writer.execute(
            update(blobs)
            .where(blobs.c.digest == digest, blobs.c.state == LIVE, ~linked)
            .values(state="condemned")
        ).rowcount
        == 1
    )


def referring_manifest(reader: Reader, repository_id: int, digest: Digest, kind: str) -> str | None:
    """Return the digest of a manifest in the repository that refers to `digest`, if any does."""
    found = reader.scalar(
        select(manifests.c.digest)
        .join_from(
            manifest_references, manifests, manifests.c.id == manifest_references.c.manifest_id
        )
        .where(
            manifest_references.c.repository_id == repository_id,
            manifest_references.c.digest == digest,
            manifest_references.c.kind == kind,
        )
        .limit(1)
    )
    return None if found is None else str(found)


def missing_blobs(reader: Reader, repository_id: int, wanted: Sequence[Digest]) -> list[Digest]:
    """Return those of `wanted` that the repository does not link to live bytes."""
    statement = (
        select(repository_blobs.c.digest)
        .join_from(repository_blobs, blobs, blobs.c.digest == repository_blobs.c.digest)
        .where(repository_blobs.c.repository_id == repository_id, blobs.c.state == LIVE)
    )
    return _missing(reader, statement, repository_blobs.c.digest, wanted)


def missing_manifests(reader: Reader, repository_id: int, wanted: Sequence[Digest]) -> list[Digest]:
    """Return those of `wanted` that are not manifests of the repository."""
    statement = select(manifests.c.digest).where(manifests.c.repository_id == repository_id)
    return _missing(reader, statement, manifests.c.digest, wanted)


def _missing(reader: Reader, statement: Any, column: Any, wanted: Sequence[Digest]) -> list[Digest]:
    found: set[str] = set()
    for part in _parts(wanted):
        found.update(row[0] for row in reader.execute(statement.where(column.in_(part))))
    return [digest for digest in wanted if digest not in found]


def _parts(items: Sequence[Digest]) -> Iterable[Sequence[str]]:
    for start in range(0, len(items), _IN_ONE_STATEMENT):
        yield [str(item) for item in items[start : start + _IN_ONE_STATEMENT]]


def find_manifest_id(reader: Reader, repository_id: int, digest: Digest) -> int | None:
    """Return the row of a repository's manifest."""
    where = (manifests.c.repository_id == repository_id, manifests.c.digest == digest)
    found = reader.scalar(select(manifests.c.id).where(*where))
    return None if found is None else int(found)


def add_manifest(
    writer: Writer,
    repository_id: int,
    digest: Digest,
    payload: bytes,
    manifest: Manifest,
    now: float,
) -> int:
    """Insert a manifest and its references; return its row."""
    manifest_id = int(
        writer.scalar(
            insert(manifests)
            .values(
                repository_id=repository_id,
                digest=str(digest),
                media_type=manifest.media_type,
                payload=payload,
                size=len(payload),
                subject=manifest.subject,
                artifact_type=manifest.artifact_type,
                annotations=orjson.dumps(manifest.annotations).decode(),
                pushed_at=now,
            )
            .returning(manifests.c.id)
        )
    )
    edges = [(blob, "blob") for blob in manifest.blobs]
    edges += [(child, "manifest") for child in manifest.children if child not in manifest.blobs]
    rows = [
        {
            "manifest_id": manifest_id,
            "digest": str(digest),
            "repository_id": repository_id,
            "kind": kind,
        }
        for digest, kind in edges
    ]
    if rows:
        writer.execute(insert(manifest_references), rows)
    return manifest_id


def review_manifest(writer: Writer, manifest_id: int, review_at: float | None) -> None:
    """Ask collection to look at a manifest at `review_at`, or (None) not to."""
    writer.execute(
        update(manifests).where(manifests.c.id == manifest_id).values(review_at=review_at)
    )


def review_untagged(writer: Writer, manifest_id: int, review_at: float) -> None:
    """Ask collection to look at a manifest that lost a tag, and at the subject that it kept."""
    review_manifest(writer, manifest_id, review_at)
    of = select(manifests.c.repository_id, manifests.c.subject).where(manifests.c.id == manifest_id)
    row = writer.execute(of).one()
    if row.subject is not None:
        writer.execute(
            update(manifests)
            .where(
                manifests.c.repository_id == row.repository_id, manifests.c.digest == row.subject
            )
            .values(review_at=review_at)
        )


def keep_blob(writer: Writer, repository_id: int, digest: Digest, review_at: float) -> bool:
    """Keep a blob that is still in the repository until `review_at`; return False if it is not."""
    if missing_blobs(writer, repository_id, [digest]):
        return False
    link_blob(writer, repository_id, digest, review_at)
    return True


def keep_manifest(writer: Writer, repository_id: int, digest: Digest, review_at: float) -> bool:
    """Keep a manifest that is still here until `review_at`; return False if it is not."""
    manifest_id = find_manifest_id(writer, repository_id, digest)
    if manifest_id is None:
        return False
    writer.execute(
        update(manifests)
        .where(manifests.c.id == manifest_id, manifests.c.review_at < review_at)
        .values(review_at=review_at)
    )
    return True


def put_tag(
    writer: Writer,
    repository_id: int,
    name: str,
    manifest_id: int,
    *,
    account_id: int | None,
    now: float,
) -> int | None:
    """Point a tag at a manifest; return the row of the manifest that it pointed at before."""
    where = (tags.c.repository_id == repository_id, tags.c.name == name)
    values = {"manifest_id": manifest_id, "updated_at": now, "account_id": account_id}
    before = writer.scalar(select(tags.c.manifest_id).where(*where))
    if before is None:
        writer.execute(insert(tags).values(repository_id=repository_id, name=name, **values))
    else:
        writer.execute(update(tags).where(*where).values(values))
    return None if before in {None, manifest_id} else int(before)


def remove_tag(writer: Writer, repository_id: int, name: str) -> int | None:
    """Delete a tag; return the row of the manifest that it pointed at, or None without a tag."""
    where = (tags.c.repository_id == repository_id, tags.c.name == name)
    found = writer.scalar(delete(tags).where(*where).returning(tags.c.manifest_id))
    return None if found is None else int(found)


def is_tagged(reader: Reader, manifest_id: int) -> bool:
    """Tell whether any tag points at a manifest."""
    return bool(reader.scalar(select(exists().where(tags.c.manifest_id == manifest_id))))


def remove_manifest(
    writer: Writer, manifest_id: int, *, blobs_review_at: float, manifests_review_at: float
) -> None:
    """Delete a manifest with its tags, and have what it referred to reviewed."""
    row = writer.execute(
        select(manifests.c.repository_id, manifests.c.digest, manifests.c.subject).where(
            manifests.c.id == manifest_id
        )
    ).one()
    repository_id, digest = row.repository_id, row.digest
    edges = select(manifest_references.c.digest).where(
        manifest_references.c.manifest_id == manifest_id
    )
    writer.execute(
        update(repository_blobs)
        .where(
            repository_blobs.c.repository_id == repository_id,
            repository_blobs.c.digest.in_(edges.where(manifest_references.c.kind == "blob")),
        )
        .values(review_at=blobs_review_at)
    )
    children = manifests.c.digest.in_(edges.where(manifest_references.c.kind == "manifest"))
    writer.execute(
        update(manifests)
        .where(
            manifests.c.repository_id == repository_id,
            or_(children, manifests.c.subject == digest, manifests.c.digest == row.subject),
        )
        .values(review_at=manifests_review_at)
    )
    writer.execute(delete(tags).where(tags.c.manifest_id == manifest_id))
    writer.execute(
        delete(manifest_references).where(manifest_references.c.manifest_id == manifest_id)
    )
    writer.execute(delete(manifests).where(manifests.c.id == manifest_id))


def sources_of(reader: Reader, digest: Digest, principal: Principal, count: int) -> list[str]:
    """Return names of repositories with this blob, those of the principal first."""
    rows = reader.execute(
        select(repositories.c.name)
        .join_from(
            repository_blobs, repositories, repositories.c.id == repository_blobs.c.repository_id
        )
        .join(blobs, blobs.c.digest == repository_blobs.c.digest)
        .where(repository_blobs.c.digest == digest, blobs.c.state == LIVE)
        .order_by(repositories.c.namespace_id != (principal.account_id or 0), repositories.c.id)
        .limit(count)
    )
    return [row[0] for row in rows]
