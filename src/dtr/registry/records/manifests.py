"""Statements about manifests, what they refer to, and tags."""

import orjson
from sqlalchemy import bindparam, delete, exists, func, or_, select, update

from dtr.database import Lookup, Reader, Writer
from dtr.database.schema import (
    manifest_references,
    manifests,
    tags,
)
from dtr.database.statements import insert_unless_there
from dtr.model.digest import Digest
from dtr.model.manifests import Manifest
from dtr.model.names import Reference, TagName
from dtr.registry.records.edges import RULES, add_edges, review_edges

_PULLED = (
    manifests.c.digest,
    manifests.c.media_type,
    manifests.c.payload,
    manifests.c.review_at,
    manifests.c.id,
)
MANIFEST_BY_TAG = Lookup(
    select(*_PULLED)
    .join_from(tags, manifests, manifests.c.id == tags.c.manifest_id)
    .where(
        tags.c.repository_id == bindparam("repository_id"), tags.c.name == bindparam("reference")
    )
)
MANIFEST_BY_DIGEST = Lookup(
    select(*_PULLED).where(
        manifests.c.repository_id == bindparam("repository_id"),
        manifests.c.digest == bindparam("reference"),
    ),
    is_immutable=True,
)
REFERRER_BYTES = 512
"""What a descriptor takes besides its annotations."""
TAG_PAGE = Lookup(
    select(tags.c.name)
    .where(tags.c.repository_id == bindparam("repository_id"), tags.c.name > bindparam("last"))
    .order_by(tags.c.name)
    .limit(bindparam("count"))
)
# What a page may cost is settled by the sizes of the manifests alone, which are no less than those
# of their annotations. Only of those that fit are the annotations read: sixty of four mebibytes
# would otherwise pass through a worker for an answer of one.
_referrers = (
    select(manifests.c.id, manifests.c.digest, manifests.c.size)
    .where(
        manifests.c.repository_id == bindparam("repository_id"),
        manifests.c.subject == bindparam("subject"),
        manifests.c.digest > bindparam("last"),
        or_(bindparam("every"), manifests.c.artifact_type == bindparam("artifact_type")),
    )
    .order_by(manifests.c.digest)
    .limit(bindparam("count"))
    .subquery()
)
_weighed = select(
    _referrers.c.id,
    (func.row_number().over(order_by=_referrers.c.digest)).label("place"),
    func.count().over().label("found"),
    func.sum(_referrers.c.size + REFERRER_BYTES)
    .over(order_by=_referrers.c.digest, rows=(None, 0))
    .label("bytes"),
).subquery()
REFERRER_PAGE = Lookup(
    select(
        manifests.c.digest,
        manifests.c.media_type,
        manifests.c.size,
        manifests.c.artifact_type,
        manifests.c.annotations,
        _weighed.c.found,
    )
    .join_from(_weighed, manifests, manifests.c.id == _weighed.c.id)
    .where(or_(_weighed.c.place == 1, _weighed.c.bytes <= bindparam("most_bytes")))
    .order_by(_weighed.c.place)
)
"""The first referrers that fit into `most_bytes`, at least one; each says how many were found."""


def find_manifest_id(reader: Reader, repository_id: int, digest: Digest) -> int | None:
    """Return the row of a repository's manifest."""
    where = (manifests.c.repository_id == repository_id, manifests.c.digest == digest)
    found = reader.scalar(select(manifests.c.id).where(*where))
    return None if found is None else int(found)


def digest_now(reader: Reader, repository_id: int, reference: Reference) -> str | None:
    """Return the digest of the manifest that a tag or a digest leads to."""
    query = select(manifests.c.digest)
    if isinstance(reference, TagName):
        query = query.join_from(tags, manifests, manifests.c.id == tags.c.manifest_id).where(
            tags.c.repository_id == repository_id, tags.c.name == reference
        )
    else:
        query = query.where(
            manifests.c.repository_id == repository_id, manifests.c.digest == reference
        )
    found = reader.scalar(query)
    return None if found is None else str(found)


def add_manifest(
    writer: Writer,
    repository_id: int,
    digest: Digest,
    payload: bytes,
    manifest: Manifest,
    now: float,
) -> int | None:
    """Insert a manifest and its edges; return its row, or None where it is here already."""
    manifest_id = writer.scalar(
        insert_unless_there(manifests, "repository_id", "digest")
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
            edge_rules=RULES,
        )
        .returning(manifests.c.id)
    )
    if manifest_id is None:
        return None
    add_edges(writer, int(manifest_id), repository_id, manifest)
    return int(manifest_id)


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
    new = insert_unless_there(tags, "repository_id", "name").returning(tags.c.name)
    if writer.scalar(new.values(repository_id=repository_id, name=name, **values)) is not None:
        return None
    before = writer.scalar(select(tags.c.manifest_id).where(*where))
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
    review_edges(
        writer,
        manifest_id,
        repository_id,
        row.subject,
        blobs_review_at=blobs_review_at,
        manifests_review_at=manifests_review_at,
    )
    in_repository = manifests.c.repository_id == repository_id
    for related in (manifests.c.subject == digest, manifests.c.digest == row.subject):
        writer.execute(
            update(manifests).where(in_repository, related).values(review_at=manifests_review_at)
        )
    writer.execute(delete(tags).where(tags.c.manifest_id == manifest_id))
    writer.execute(
        delete(manifest_references).where(manifest_references.c.manifest_id == manifest_id)
    )
    writer.execute(delete(manifests).where(manifests.c.id == manifest_id))
