"""Statements about how much repositories hold, and how much of it no tag leads to.

They read everything that they count: for commands, not for requests.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import CTE, ColumnElement, except_, func, literal, select, true, union_all

from dtr.database import Reader
from dtr.database.schema import (
    blobs,
    manifest_references,
    manifests,
    repositories,
    repository_blobs,
    tags,
)


@dataclass(frozen=True, slots=True)
class Untagged:
    """What no tag leads to, through indexes, subjects and referrers: manifests, and bytes.

    The bytes are those of the manifests, and of blobs that nothing else in their repository needs.
    """

    manifests: int = 0
    bytes: int = 0


def bytes_by_repository(reader: Reader, namespace_id: int | None = None) -> dict[int, int]:
    """Return how many bytes each repository holds, blobs and manifests together.

    What several repositories have counts in each of them, and is stored once.
    """
    linked = (
        select(repository_blobs.c.repository_id, blobs.c.size)
        .join_from(repository_blobs, blobs, blobs.c.digest == repository_blobs.c.digest)
        .where(_is_in(repository_blobs.c.repository_id, namespace_id))
    )
    own = select(manifests.c.repository_id, manifests.c.size).where(
        _is_in(manifests.c.repository_id, namespace_id)
    )
    return _sums(reader, union_all(linked, own).subquery())


def untagged_by_repository(reader: Reader, namespace_id: int | None = None) -> dict[int, Untagged]:
    """Return what no tag leads to, in each repository that has such."""
    reached = _reached(namespace_id)
    lost = (
        select(manifests.c.id, manifests.c.repository_id, manifests.c.size)
        .where(
            _is_in(manifests.c.repository_id, namespace_id),
            manifests.c.id.not_in(select(reached.c.id)),
        )
        .cte("lost")
    )
    count = func.count().label("manifests")
    counted = select(lost.c.repository_id, count, func.sum(lost.c.size).label("bytes"))
    rows = reader.execute(counted.group_by(lost.c.repository_id)).all()
    if not rows:
        return {}
    edge = (manifest_references.c.repository_id, manifest_references.c.digest)
    named_by = manifest_references.c.manifest_id
    only = except_(
        select(*edge).where(named_by.in_(select(lost.c.id))),
        select(*edge).where(named_by.in_(select(reached.c.id))),
    ).subquery()
    freed = (
        select(only.c.repository_id, blobs.c.size)
        .join_from(
            only,
            repository_blobs,
            (repository_blobs.c.repository_id == only.c.repository_id)
            & (repository_blobs.c.digest == only.c.digest),
        )
        .join(blobs, blobs.c.digest == repository_blobs.c.digest)
    )
    sizes = _sums(reader, freed.subquery())
    return {
        row.repository_id: Untagged(row.manifests, int(row.bytes) + sizes.get(row.repository_id, 0))
        for row in rows
    }


def _reached(namespace_id: int | None) -> CTE:
    """Return the rows of all manifests that a tag leads to."""
    tagged, subject, child, referrer = (
        manifests.alias(name) for name in ("tagged", "about", "child", "referrer")
    )
    is_in = _is_in(tags.c.repository_id, namespace_id)
    # A tag leads to a manifest, and to what that is about; from there on to parts and referrers.
    about = (subject.c.repository_id == tagged.c.repository_id) & (
        subject.c.digest == tagged.c.subject
    )
    first = union_all(
        select(tags.c.manifest_id.label("id")).where(is_in),
        select(subject.c.id)
        .join_from(tags, tagged, tagged.c.id == tags.c.manifest_id)
        .join(subject, about)
        .where(is_in),
    ).subquery()
    reached = select(first.c.id).cte("reached", recursive=True)
    steps = union_all(
        select(manifest_references.c.manifest_id.label("source"), child.c.id.label("target")).join(
            child,
            (child.c.repository_id == manifest_references.c.repository_id)
            & (child.c.digest == manifest_references.c.digest),
        ),
        select(manifests.c.id, referrer.c.id).join_from(
            manifests,
            referrer,
            (referrer.c.repository_id == manifests.c.repository_id)
            & (referrer.c.subject == manifests.c.digest),
        ),
    ).subquery("steps")
    return reached.union(
        select(steps.c.target).join_from(reached, steps, steps.c.source == reached.c.id)
    )


def _is_in(repository_id: ColumnElement[int], namespace_id: int | None) -> ColumnElement[bool]:
    if namespace_id is None:
        return true()
    of_namespace = repositories.c.namespace_id == literal(namespace_id)
    return repository_id.in_(select(repositories.c.id).where(of_namespace))


def _sums(reader: Reader, sizes: Any) -> dict[int, int]:
    total = select(sizes.c.repository_id, func.sum(sizes.c.size).label("bytes"))
    rows = reader.execute(total.group_by(sizes.c.repository_id))
    return {row.repository_id: int(row.bytes) for row in rows}
