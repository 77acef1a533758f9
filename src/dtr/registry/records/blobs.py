"""Statements about blobs, and the links by which repositories read them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, delete, exists, select, update

from dtr.database import Change, Lookup, Reader, Writer
from dtr.database.schema import (
    blob_holders,
    blobs,
    repository_blobs,
)
from dtr.database.statements import insert_unless_there
from dtr.model.digest import Digest
from dtr.model.errors import UnavailableError
from dtr.registry.records.membership import Find, missing

LIVE = "live"


@dataclass(frozen=True, slots=True)
class Blob:
    """Committed content as the metadata knows it."""

    digest: Digest
    size: int
    storage_key: str
    holders: tuple[str, ...] = field(default=(), compare=False)
    """Given with a new blob where replicas hold bytes on their own disks; not read back."""


BLOB = Lookup(
    select(blobs.c.digest, blobs.c.size, blobs.c.storage_key, repository_blobs.c.review_at)
    .join_from(repository_blobs, blobs, blobs.c.digest == repository_blobs.c.digest)
    .where(
        repository_blobs.c.repository_id == bindparam("repository_id"),
        repository_blobs.c.digest == bindparam("digest"),
        blobs.c.state == LIVE,
    ),
    is_immutable=True,
)
BLOB_NOW = Lookup(BLOB.statement)
"""The same, of the primary: the key under which the bytes are is what changes of a blob."""
FIND_BLOB = Lookup(
    select(blobs.c.digest, blobs.c.size, blobs.c.storage_key, blobs.c.state).where(
        blobs.c.digest == bindparam("digest")
    )
)
ADD_BLOB = Change(
    insert_unless_there(blobs, "digest").values(
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
ADD_HOLDER = Change(
    insert_unless_there(blob_holders, "storage_key", "replica_id").values(
        storage_key=bindparam("storage_key"),
        replica_id=bindparam("replica_id"),
        verified_at=bindparam("verified_at"),
    )
)
ADD_LINK = Change(insert_unless_there(repository_blobs, "repository_id", "digest"))
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


def find_blob(reader: Reader, digest: Digest) -> tuple[Blob, str] | None:
    """Return a blob of the registry and its state, whoever has it."""
    row = reader.first(FIND_BLOB, {"digest": digest})
    return (blob_of(row), str(row[3])) if row else None


def is_stored(reader: Reader, storage_key: str) -> bool:
    """Tell whether a blob has its bytes under this key."""
    return bool(reader.scalar(select(exists().where(blobs.c.storage_key == storage_key))))


def store_blob(writer: Writer, blob: Blob, now: float) -> bool:
    """Make a blob live with these bytes; return False when it is live with others.

    A condemned row is taken over: whoever deletes its bytes knows them by the old key.

    Raises:
        UnavailableError: these very bytes are condemned. They came with an earlier attempt whose
            answer was lost, the blob was deleted since, and they may be gone already.

    """
    values = {"size": blob.size, "storage_key": blob.storage_key, "now": now}
    if writer.change(ADD_BLOB, {"digest": blob.digest, **values}):
        place_blob(writer, blob.storage_key, blob.holders, now)
        return True
    found = find_blob(writer, blob.digest)
    if found is not None and found[1] == LIVE:
        return found[0].storage_key == blob.storage_key  # if this very unit ran before
    if found is not None and found[0].storage_key == blob.storage_key:
        raise UnavailableError("the blob was deleted at the same moment; push it again")
    writer.change(REVIVE_BLOB, {"which": blob.digest, **values})
    place_blob(writer, blob.storage_key, blob.holders, now)
    return True


def place_blob(writer: Writer, storage_key: str, holders: Collection[str], now: float) -> None:
    """Note that replicas hold these bytes on their own disks, and that they are right now."""
    for replica in sorted(holders):
        values = {"storage_key": storage_key, "replica_id": replica, "verified_at": now}
        writer.change(ADD_HOLDER, values)


def link_blob(writer: Writer, repository_id: int, digest: Digest, review_at: float) -> None:
    """Let a repository read a blob, and keep it at least until `review_at`."""
    link = {"repository_id": repository_id, "digest": digest}
    if writer.change(ADD_LINK, {**link, "review_at": review_at}):
        return
    found = writer.first(FIND_LINK, link)
    # A link that collection has put aside (null) has a manifest; it needs no new review.
    if found is not None and found[0] is not None and found[0] < review_at:
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


def missing_blobs(reader: Reader, repository_id: int, wanted: Sequence[Digest]) -> list[Digest]:
    """Return those of `wanted` that the repository does not link to live bytes."""
    return missing(reader, [blob_in(repository_id)], wanted)


def blob_in(repository_id: int) -> Find:
    """Return what finds a digest among the live blobs that a repository links."""

    def find(digest: ColumnElement[str]) -> Select[Any]:
        return (
            select(blobs.c.id)
            .join_from(repository_blobs, blobs, blobs.c.digest == repository_blobs.c.digest)
            .where(
                repository_blobs.c.repository_id == repository_id,
                repository_blobs.c.digest == digest,
                blobs.c.state == LIVE,
            )
        )

    return find


def keep_blob(writer: Writer, repository_id: int, digest: Digest, review_at: float) -> bool:
    """Keep a blob that is still in the repository until `review_at`; return False if it is not."""
    if missing_blobs(writer, repository_id, [digest]):
        return False
    link_blob(writer, repository_id, digest, review_at)
    return True
