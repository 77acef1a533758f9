"""Statements of collection and of the consistency check."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    text,
    update,
)

from dtr.database import Reader, Writer
from dtr.database.schema import (
    blobs,
    manifests,
    repositories,
    repository_blobs,
    tags,
    uploads,
)
from dtr.model.digest import Digest
from dtr.model.manifests import Manifest
from dtr.registry import records as registry
from dtr.registry.records import holders
from dtr.storage import Progress


@dataclass(frozen=True, slots=True)
class Link:
    """A repository's right to read a blob."""

    repository_id: int
    digest: Digest


# Spelled out, and not as a parameter: only so does a generic plan see that the index serves.
_CONDEMNED = text("blobs.state = 'condemned'")
_referrer = manifests.alias("referrer")
_subject = manifests.alias("subject_of")


def _is_needed() -> Any:
    """Return the condition that something reaches a manifest: a tag, an edge or a subject.

    A tagged referrer reaches its subject; a subject that is here reaches its referrers.
    """
    return or_(
        exists().where(tags.c.manifest_id == manifests.c.id),
        registry.is_referred_to(manifests.c.repository_id, manifests.c.digest),
        exists().where(
            _referrer.c.repository_id == manifests.c.repository_id,
            _referrer.c.subject == manifests.c.digest,
            tags.c.manifest_id == _referrer.c.id,
        ),
        exists().where(
            _subject.c.repository_id == manifests.c.repository_id,
            _subject.c.digest == manifests.c.subject,
        ),
    )


def unneeded_manifests(reader: Reader, now: float, count: int) -> list[int]:
    """Return rows of manifests whose time has come and that nothing reaches."""
    due = and_(manifests.c.review_at.is_not(None), manifests.c.review_at <= now)
    statement = select(manifests.c.id).where(due, ~_is_needed()).limit(count)
    return [row[0] for row in reader.execute(statement)]


def due_manifests(reader: Reader, now: float, count: int) -> list[tuple[int, bool]]:
    """Return rows of manifests whose time has come, and whether something reaches each."""
    due = (
        select(manifests.c.id)
        .where(manifests.c.review_at.is_not(None), manifests.c.review_at <= now)
        .order_by(manifests.c.review_at)
        .limit(count)
        .subquery()
    )
    rows = reader.execute(
        select(manifests.c.id, _is_needed().label("is_needed")).join_from(
            due, manifests, manifests.c.id == due.c.id
        )
    )
    return [(row.id, bool(row.is_needed)) for row in rows]


def put_aside_manifests(writer: Writer, ids: Sequence[int]) -> None:
    """Stop reviewing manifests that something reaches; whoever takes that away asks again."""
    statement = update(manifests).where(manifests.c.id == bindparam("which")).values(review_at=None)
    if ids:
        writer.execute(statement, [{"which": manifest_id} for manifest_id in ids])


def due_links(reader: Reader, now: float, count: int) -> list[tuple[Link, bool]]:
    """Return links whose time has come, and whether a manifest of the repository needs each.

    The page is taken first: asked about all links that are due, PostgreSQL would rather read all
    references there are.
    """
    due = (
        select(repository_blobs.c.repository_id, repository_blobs.c.digest)
        .where(repository_blobs.c.review_at.is_not(None), repository_blobs.c.review_at <= now)
        .order_by(repository_blobs.c.review_at)
        .limit(count)
        .subquery()
    )
    needed = registry.is_needed_blob(due.c.repository_id, due.c.digest)
    rows = reader.execute(select(due.c.repository_id, due.c.digest, needed.label("is_needed")))
    return [(Link(row.repository_id, Digest(row.digest)), bool(row.is_needed)) for row in rows]


def put_aside_links(writer: Writer, links: Sequence[Link]) -> None:
    """Stop reviewing links that a manifest needs."""
    statement = update(repository_blobs).where(*_this_link()).values(review_at=None)
    if links:
        writer.execute(statement, _rows_of(links))


def remove_links(writer: Writer, links: Sequence[Link]) -> None:
    """Take blobs out of repositories, and mark for deletion those which no repository has left."""
    if not links:
        return
    rows = _rows_of(links)
    writer.execute(delete(repository_blobs).where(*_this_link()), rows)
    linked = exists().where(repository_blobs.c.digest == blobs.c.digest)
    writer.execute(
        update(blobs)
        .where(blobs.c.digest == bindparam("which"), blobs.c.state == registry.LIVE, ~linked)
        .values(state="condemned"),
        [{"which": row["which"]} for row in rows],
    )


def _this_link() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return (
        repository_blobs.c.repository_id == bindparam("in_repository"),
        repository_blobs.c.digest == bindparam("which"),
    )


def _rows_of(links: Sequence[Link]) -> list[dict[str, Any]]:
    # In one order for everybody, so that two who remove the same do not wait for each other.
    ordered = sorted(links, key=lambda link: (link.digest, link.repository_id))
    return [{"in_repository": link.repository_id, "which": link.digest} for link in ordered]


def condemned_blobs(reader: Reader, count: int) -> list[registry.Blob]:
    """Return blobs that are marked for deletion."""
    rows = reader.execute(
        select(blobs.c.digest, blobs.c.size, blobs.c.storage_key)
        .where(_CONDEMNED)
        .order_by(blobs.c.id)
        .limit(count)
    )
    return [registry.blob_of(row) for row in rows]


def remove_condemned(writer: Writer, gone: list[registry.Blob]) -> None:
    """Delete the rows of blobs whose bytes are gone.

    A row that a push has taken over meanwhile is live and has another key: it stays.
    """
    where = and_(
        blobs.c.digest == bindparam("which"),
        blobs.c.state == "condemned",
        blobs.c.storage_key == bindparam("key"),
    )
    rows = [{"which": blob.digest, "key": blob.storage_key} for blob in gone]
    writer.execute(delete(blobs).where(where), rows)
    holders.remove_placements(writer, [blob.storage_key for blob in gone])


def blobs_after(reader: Reader, digest: str, count: int) -> list[tuple[registry.Blob, str]]:
    """Return a page of all blobs with their states, for the consistency check."""
    rows = reader.execute(
        select(blobs.c.digest, blobs.c.size, blobs.c.storage_key, blobs.c.state)
        .where(blobs.c.digest > digest)
        .order_by(blobs.c.digest)
        .limit(count)
    )
    return [(registry.blob_of(row), row.state) for row in rows]


def live_blobs(reader: Reader) -> tuple[int, int]:
    """Return how many blobs the registry has, and how many bytes they have together."""
    row = reader.execute(
        select(
            func.count().label("live"), func.coalesce(func.sum(blobs.c.size), 0).label("bytes")
        ).where(blobs.c.state == registry.LIVE)
    ).one()
    return int(row.live), int(row.bytes)


def manifests_after(reader: Reader, manifest_id: int, count: int) -> list[Any]:
    """Return a page of manifests with payloads, for the consistency check."""
    return list(
        reader.execute(
            select(
                manifests.c.id,
                repositories.c.name,
                manifests.c.repository_id,
                manifests.c.digest,
                manifests.c.media_type,
                manifests.c.payload,
                manifests.c.edge_rules,
            )
            .join_from(manifests, repositories, repositories.c.id == manifests.c.repository_id)
            .where(manifests.c.id > manifest_id)
            .order_by(manifests.c.id)
            .limit(count)
        )
    )


@dataclass(frozen=True, slots=True)
class Lacking:
    """What a manifest has not: edges that it should have, and content that it needs."""

    edges: Sequence[str] = ()
    content: Sequence[Digest] = ()


def lacking(reader: Reader, manifest_id: int, manifest: Manifest) -> Lacking:
    """Return what a manifest lacks; nothing if it is gone.

    All in one unit: what was deleted since the manifest was read may take its blobs with it.
    """
    where = manifests.c.id == manifest_id
    repository_id = reader.scalar(select(manifests.c.repository_id).where(where))
    if repository_id is None:
        return Lacking()
    expected = {*manifest.blobs, *manifest.children}
    return Lacking(
        sorted(expected - registry.edges_of(reader, manifest_id)),
        registry.missing_references(reader, repository_id, manifest.needed),
    )


def known_keys(reader: Reader, keys: list[str]) -> set[str]:
    """Return which of these storage keys a blob has."""
    statement = select(blobs.c.storage_key).where(blobs.c.storage_key.in_(keys))
    return {row[0] for row in reader.execute(statement)}


def known_uploads(reader: Reader, upload_ids: list[str]) -> set[str]:
    """Return which of these upload sessions there are."""
    statement = select(uploads.c.id).where(uploads.c.id.in_(upload_ids))
    return {row[0] for row in reader.execute(statement)}


def remove_expired_upload(
    writer: Writer, upload_id: str, now: float, *, forget_empty: bool = False
) -> Progress | None:
    """Delete a session that nobody continued and return where it was; None if somebody did."""
    expired = exists().where(uploads.c.id == upload_id, uploads.c.expires_at <= now)
    if not writer.scalar(select(expired)):
        return None
    return registry.take_upload(writer, upload_id, forget_empty=forget_empty)


def is_live(reader: Reader, blob: registry.Blob) -> bool:
    """Tell whether these very bytes are what the registry answers with."""
    return registry.find_blob(reader, blob.digest) == (blob, registry.LIVE)


def remove_blob(writer: Writer, blob: registry.Blob) -> bool:
    """Forget a blob whose bytes are lost, so that the next push brings it back.

    Returns False, and changes nothing, where other bytes have taken its place.
    """
    if not is_live(writer, blob):
        return writer.ran_before(is_noted=False)
    writer.ran_before()
    writer.execute(delete(repository_blobs).where(repository_blobs.c.digest == blob.digest))
    writer.execute(delete(blobs).where(blobs.c.digest == blob.digest))
    holders.remove_placements(writer, [blob.storage_key])
    return True


def repositories_with(reader: Reader, digest: Digest) -> list[str]:
    """Return names of the repositories that have a blob."""
    rows = reader.execute(
        select(repositories.c.name)
        .join_from(
            repository_blobs, repositories, repositories.c.id == repository_blobs.c.repository_id
        )
        .where(repository_blobs.c.digest == digest)
    )
    return [row[0] for row in rows]


def last_links(reader: Reader, links: list[Link]) -> list[registry.Blob]:
    """Return the blobs that no repository would link without `links`."""
    removed: dict[Digest, int] = {}
    for link in links:
        removed[link.digest] = removed.get(link.digest, 0) + 1
    found = []
    for digest, count in removed.items():
        where = repository_blobs.c.digest == digest
        linked = reader.scalar(select(func.count()).select_from(repository_blobs).where(where))
        blob = registry.find_blob(reader, digest)
        if blob is not None and linked == count:
            found.append(blob[0])
    return found
