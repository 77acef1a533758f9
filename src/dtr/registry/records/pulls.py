"""Statements about how often content was pulled."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table, bindparam, case, insert, select, update

from dtr.database import Writer
from dtr.database.schema import manifest_pulls, manifests, repositories, repository_pulls

_IN_ONE_STATEMENT = 500


@dataclass(slots=True)
class Pulls:
    """How often something was pulled, and when last."""

    count: int = 0
    last_at: float = 0.0

    def add(self, now: float) -> None:
        """Count one pull."""
        self.count += 1
        self.last_at = max(self.last_at, now)


def add_pulls(
    writer: Writer,
    batch_id: str,
    of_repositories: Mapping[int, Pulls],
    of_manifests: Mapping[int, Pulls],
) -> None:
    """Add pulls that were counted over a while, once; those of what is gone are forgotten."""
    if writer.was_done(batch_id):
        return
    _add(writer, repository_pulls, repositories.c.id, of_repositories)
    _add(writer, manifest_pulls, manifests.c.id, of_manifests)


def _add(writer: Writer, table: Table, parent: Any, pulls: Mapping[int, Pulls]) -> None:
    ids = sorted(pulls)
    for start in range(0, len(ids), _IN_ONE_STATEMENT):
        part = ids[start : start + _IN_ONE_STATEMENT]
        _add_part(writer, table, parent, {id_: pulls[id_] for id_ in part})


def _add_part(writer: Writer, table: Table, parent: Any, pulls: Mapping[int, Pulls]) -> None:
    (key,) = table.primary_key.columns
    alive = {row[0] for row in writer.execute(select(parent).where(parent.in_(pulls)))}
    known = {row[0] for row in writer.execute(select(key).where(key.in_(pulls)))}
    rows = [
        {"which": id_, "more": pulls[id_].count, "at": pulls[id_].last_at} for id_ in sorted(alive)
    ]
    if old := [row for row in rows if row["which"] in known]:
        writer.execute(
            update(table)
            .where(key == bindparam("which"))
            .values(
                pulls=table.c.pulls + bindparam("more"),
                last_pulled_at=case(
                    (table.c.last_pulled_at > bindparam("at"), table.c.last_pulled_at),
                    else_=bindparam("at"),
                ),
            ),
            old,
        )
    if new := [row for row in rows if row["which"] not in known]:
        writer.execute(
            insert(table),
            [
                {key.name: row["which"], "pulls": row["more"], "last_pulled_at": row["at"]}
                for row in new
            ],
        )
