"""Statements about which replicas hold which blob on their own disks."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, bindparam, case, delete, exists, func, select, update

from dtr.database import Reader, Writer
from dtr.database.schema import blob_holders, blobs
from dtr.model.digest import Digest
from dtr.registry.records.blobs import LIVE, Blob, place_blob


@dataclass(frozen=True, slots=True)
class Placed:
    """A live blob, and the replicas that hold it."""

    blob: Blob
    holders: frozenset[str]


@dataclass(frozen=True, slots=True)
class Placements:
    """How the registry's live blobs are placed, as one replica counts it."""

    blobs: int
    bytes: int
    """Held here."""
    under_copied: int
    """Held by fewer replicas than `needed`."""
    missing_here: int
    """Held by fewer replicas than `target`, and not here."""


def add_holder(writer: Writer, blob: Blob, replica: str, now: float) -> bool:
    """Note that a replica has a copy; return False when the blob was collected meanwhile."""
    if not writer.scalar(select(exists().where(*_is_live(blob.storage_key)))):
        return False
    place_blob(writer, blob.storage_key, [replica], now)
    return True


def remove_holder(writer: Writer, storage_keys: Sequence[str], replica: str) -> None:
    """Note that a replica does not have these bytes."""
    writer.execute(
        delete(blob_holders).where(
            blob_holders.c.storage_key.in_(storage_keys), blob_holders.c.replica_id == replica
        )
    )


def remove_placements(writer: Writer, storage_keys: Sequence[str]) -> None:
    """Forget who held bytes that are deleted everywhere."""
    if storage_keys:
        writer.execute(
            delete(blob_holders).where(blob_holders.c.storage_key == bindparam("which")),
            [{"which": key} for key in sorted(storage_keys)],
        )


def forget_other_replicas(writer: Writer, members: Collection[str]) -> int:
    """Forget what replicas held that are no members any more; return how many copies."""
    gone = blob_holders.c.replica_id.not_in(sorted(members))
    return int(writer.execute(delete(blob_holders).where(gone)).rowcount)


def note_verified(writer: Writer, storage_keys: Sequence[str], replica: str, now: float) -> None:
    """Note that a replica's copies were read and found to be right."""
    writer.execute(
        update(blob_holders)
        .where(blob_holders.c.storage_key.in_(storage_keys), blob_holders.c.replica_id == replica)
        .values(verified_at=now)
    )


def placed_after(reader: Reader, after: int, count: int) -> tuple[int, list[Placed]]:
    """Return a page of what was placed after a row, and the row that it ends with.

    What is being committed meanwhile may come before that row later on.
    """
    rows = reader.execute(
        select(blob_holders.c.id, blob_holders.c.storage_key)
        .where(blob_holders.c.id > after)
        .order_by(blob_holders.c.id)
        .limit(count)
    ).all()
    if not rows:
        return after, []
    return int(rows[-1].id), placed(reader, sorted({row.storage_key for row in rows}))


def placed(reader: Reader, storage_keys: Sequence[str]) -> list[Placed]:
    """Return those of the keys that live blobs have, with their holders."""
    holders: dict[str, set[str]] = {}
    for row in reader.execute(
        select(blob_holders.c.storage_key, blob_holders.c.replica_id).where(
            blob_holders.c.storage_key.in_(storage_keys)
        )
    ):
        holders.setdefault(row.storage_key, set()).add(row.replica_id)
    rows = reader.execute(
        select(blobs.c.digest, blobs.c.size, blobs.c.storage_key).where(
            blobs.c.storage_key.in_(storage_keys), blobs.c.state == LIVE
        )
    )
    return [Placed(_blob(row), frozenset(holders.get(row.storage_key, ()))) for row in rows]


def held_since(reader: Reader, replica: str, before: float, count: int) -> list[Blob]:
    """Return live blobs of a replica that were not verified since `before`, longest ago first."""
    rows = reader.execute(
        select(blobs.c.digest, blobs.c.size, blobs.c.storage_key)
        .join_from(blob_holders, blobs, blobs.c.storage_key == blob_holders.c.storage_key)
        .where(
            blob_holders.c.replica_id == replica,
            blob_holders.c.verified_at < before,
            blobs.c.state == LIVE,
        )
        .order_by(blob_holders.c.verified_at)
        .limit(count)
    )
    return [_blob(row) for row in rows]


def held_keys(reader: Reader, replica: str, after: str, count: int) -> list[str]:
    """Return a page of the keys that a replica is noted to hold, in their order."""
    rows = reader.execute(
        select(blob_holders.c.storage_key)
        .where(blob_holders.c.replica_id == replica, blob_holders.c.storage_key > after)
        .order_by(blob_holders.c.storage_key)
        .limit(count)
    )
    return [row.storage_key for row in rows]


def count_placements(
    reader: Reader, own: str, serving: Collection[str], *, needed: int, target: int
) -> Placements:
    """Count all live blobs by how they are placed; reads everything there is."""
    counts = (
        select(
            blobs.c.size,
            func.count(case((blob_holders.c.replica_id.in_(sorted(serving)), 1))).label("copies"),
            func.count(case((blob_holders.c.replica_id == own, 1))).label("here"),
        )
        .select_from(blobs)
        .outerjoin(blob_holders, blob_holders.c.storage_key == blobs.c.storage_key)
        .where(blobs.c.state == LIVE)
        .group_by(blobs.c.id, blobs.c.size)
        .subquery()
    )
    is_here = counts.c.here > 0
    row = reader.execute(
        select(
            func.count(case((is_here, 1))).label("blobs"),
            func.coalesce(func.sum(case((is_here, counts.c.size), else_=0)), 0).label("bytes"),
            func.count(case((counts.c.copies < needed, 1))).label("under_copied"),
            func.count(case((and_(counts.c.copies < target, ~is_here), 1))).label("missing_here"),
        )
    ).one()
    return Placements(*(int(each) for each in row))


def _is_live(storage_key: str) -> tuple[Any, Any]:
    return blobs.c.storage_key == storage_key, blobs.c.state == LIVE


def _blob(row: Any) -> Blob:
    return Blob(Digest(row.digest), row.size, row.storage_key)
