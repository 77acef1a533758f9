"""Statements about edges: what a manifest refers to, whatever is stored under the digest.

An edge is a manifest and a digest. It protects what the manifest's repository holds under that
digest, a blob or a manifest or both, now or later. The place and the media type of a descriptor say
what it should be, and documents are in use in which they are wrong, so nothing goes by them.

A subject is an edge to a blob only: for manifests a subject has rules of its own, or a referrer and
its subject would keep each other for ever. It is in a column of the manifest.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import structlog
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Table,
    bindparam,
    exists,
    literal,
    or_,
    select,
    text,
    update,
)

from dtr.database import Reader, Writer
from dtr.database.schema import manifest_references, manifests, repository_blobs
from dtr.database.statements import insert_unless_there, lines, lines_of, rows_of
from dtr.model.digest import Digest
from dtr.model.errors import ManifestInvalidError
from dtr.model.manifests import UNLIMITED, Manifest, digests_in, parse_manifest
from dtr.registry.records.blobs import blob_in
from dtr.registry.records.membership import Find, missing

_LOG = structlog.get_logger()

RULES: Final = 1
"""By which rules this program makes a manifest's edges.

0 are those of programs up to schema 0003: no edge to what is nondistributable.
"""
# Spelled out, and not as a parameter: only so does a generic plan see that the index serves.
_IS_OLD = text("manifests.edge_rules = 0")
_AT_ONCE: Final = 50
_MANY: Final = 500
_BYTES_AT_ONCE: Final = 4 << 20


def is_referred_to(
    repository_id: ColumnElement[int], digest: ColumnElement[str]
) -> ColumnElement[bool]:
    """Return the condition that a manifest of the repository has an edge to the digest."""
    return exists().where(
        manifest_references.c.repository_id == repository_id,
        manifest_references.c.digest == digest,
    )


def is_needed_blob(
    repository_id: ColumnElement[int], digest: ColumnElement[str]
) -> ColumnElement[bool]:
    """Return the condition that a manifest of the repository keeps a blob from collection."""
    return or_(
        is_referred_to(repository_id, digest),
        exists().where(
            manifests.c.repository_id == repository_id,
            manifests.c.subject.is_not(None),
            manifests.c.subject == digest,
        ),
    )


def referring_manifest(reader: Reader, repository_id: int, digest: Digest) -> str | None:
    """Return the digest of a manifest in the repository that has an edge to `digest`."""
    found = reader.scalar(
        select(manifests.c.digest)
        .join_from(
            manifest_references, manifests, manifests.c.id == manifest_references.c.manifest_id
        )
        .where(
            manifest_references.c.repository_id == repository_id,
            manifest_references.c.digest == digest,
        )
        .limit(1)
    )
    return None if found is None else str(found)


def missing_references(
    reader: Reader, repository_id: int, wanted: Sequence[Digest]
) -> list[Digest]:
    """Return those of `wanted` that the repository has neither as a blob nor as a manifest."""
    return missing(reader, [blob_in(repository_id), _manifest_in(repository_id)], wanted)


def add_edges(writer: Writer, manifest_id: int, repository_id: int, manifest: Manifest) -> None:
    """Add those edges of a manifest that are not there."""
    for kind, digests in (("blob", manifest.blobs), ("manifest", manifest.children)):
        _add(writer, manifest_id, repository_id, kind, digests)


def edges_of(reader: Reader, manifest_id: int) -> set[str]:
    """Return the digests that a manifest has edges to."""
    of = manifest_references.c.manifest_id == manifest_id
    return set(lines(reader.scalar(select(lines_of(manifest_references.c.digest)).where(of))))


def review_edges(
    writer: Writer,
    manifest_id: int,
    repository_id: int,
    subject: str | None,
    *,
    blobs_review_at: float,
    manifests_review_at: float,
) -> None:
    """Have collection look at everything that a manifest refers to.

    In the order of the digests, so that two that meet do not wait for each other.
    """
    digests = sorted(edges_of(writer, manifest_id) | ({subject} if subject else set()))
    for table, review_at in (
        (repository_blobs, blobs_review_at),
        (manifests, manifests_review_at),
    ):
        _review(writer, table, repository_id, digests, review_at)


def _review(
    writer: Writer, table: Table, repository_id: int, digests: Sequence[str], review_at: float
) -> None:
    """Set the time at which collection looks at each of these.

    A few one by one, in one go: for one statement PostgreSQL might read the whole repository.
    So many that this would be right, in one statement: one by one they would take seconds.
    """
    of_repository = table.c.repository_id == repository_id
    if len(digests) > _MANY:
        asked = rows_of(digests)
        statement = update(table).where(of_repository, table.c.digest == asked.c.value)
        writer.execute(statement.values(review_at=review_at))
    elif digests:
        statement = update(table).where(of_repository, table.c.digest == bindparam("which"))
        rows = [{"which": digest} for digest in digests]
        writer.execute(statement.values(review_at=review_at), rows)


def make_edges(writer: Writer, repository_id: int | None = None) -> bool:
    """Make the edges of some manifests that an older program stored; return False if all have.

    Collection calls it before it looks at anything, so it holds for what an old program stores
    while new ones run, too. A few MiB of manifests at a time, of one repository where it is named.
    """
    page = select(manifests.c.id, manifests.c.size).where(*_old_of(repository_id)).limit(_AT_ONCE)
    found = writer.execute(page).all()
    for manifest_id in _few_bytes(found):
        remake_edges(writer, manifest_id)
    return bool(found)


def has_all_edges(reader: Reader, repository_id: int | None = None) -> bool:
    """Tell whether no manifest, or none of a repository, is without its edges.

    Whoever decides by edges asks it in the same unit of work: an older program that runs beside may
    store another manifest at any moment.
    """
    found = reader.execute(select(manifests.c.id).where(*_old_of(repository_id)).limit(1))
    return found.first() is None


def remake_edges(writer: Writer, manifest_id: int) -> None:
    """Make the edges of one manifest by today's rules, if it is still there."""
    columns = (manifests.c.repository_id, manifests.c.media_type, manifests.c.payload)
    row = writer.execute(select(*columns).where(manifests.c.id == manifest_id)).first()
    if row is None:
        return
    add_edges(writer, manifest_id, row.repository_id, references_of(row.payload, row.media_type))
    done = update(manifests).where(manifests.c.id == manifest_id).values(edge_rules=RULES)
    writer.execute(done)


def references_of(payload: bytes, media_type: str) -> Manifest:
    """Return what a stored manifest refers to: also one that would be refused today.

    Such a one refers to every digest in it. That may keep too much, and loses nothing.
    """
    try:
        return parse_manifest(payload, media_type, UNLIMITED)
    except ManifestInvalidError as error:
        _LOG.warning("a stored manifest is not read as others are", reason=str(error))
        return Manifest(media_type, blobs=digests_in(payload))


def _old_of(repository_id: int | None) -> list[ColumnElement[bool]]:
    """Return the conditions of manifests without their edges, of a repository or of all."""
    is_old: list[Any] = [_IS_OLD]
    if repository_id is not None:
        is_old.append(manifests.c.repository_id == repository_id)
    return is_old


def _few_bytes(page: Sequence[Any]) -> Iterator[int]:
    """Yield rows until their manifests are a few MiB together; the first in any case."""
    size = 0
    for row in page:
        size += row.size
        if size > _BYTES_AT_ONCE and size != row.size:
            return
        yield row.id


def _add(
    writer: Writer, manifest_id: int, repository_id: int, kind: str, digests: Sequence[str]
) -> None:
    if not digests:
        return
    asked = rows_of(digests)
    columns = ("manifest_id", "digest", "repository_id", "kind")
    values = (
        literal(manifest_id, BigInteger),
        asked.c.value,
        literal(repository_id, BigInteger),
        literal(kind),
    )
    # Without a condition SQLite would take ON CONFLICT for a join's ON.
    rows = select(*values).where(text("1 = 1"))
    new = insert_unless_there(manifest_references, "manifest_id", "digest")
    writer.execute(new.from_select(columns, rows))


def _manifest_in(repository_id: int) -> Find:
    """Return what finds a digest among a repository's manifests."""

    def find(digest: ColumnElement[str]) -> Select[Any]:
        where = (manifests.c.repository_id == repository_id, manifests.c.digest == digest)
        return select(manifests.c.id).where(*where)

    return find
