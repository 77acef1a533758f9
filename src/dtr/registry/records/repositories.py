"""Statements about repositories and the namespaces that they are in."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    union,
    update,
)

from dtr.accounts.records import FIND_REPOSITORY, repository_of
from dtr.database import Lookup, Reader, Writer
from dtr.database.schema import (
    accounts,
    blobs,
    grants,
    manifests,
    repositories,
    repository_blobs,
    repository_pulls,
    tags,
    uploads,
)
from dtr.model.access import Level, Repository, Visibility
from dtr.model.names import RepositoryName
from dtr.registry.records.blobs import LIVE
from dtr.registry.records.usage import Untagged, bytes_by_repository, untagged_by_repository

CATALOG_PAGE = Lookup(
    select(repositories.c.name)
    .where(repositories.c.name > bindparam("last"))
    .order_by(repositories.c.name)
    .limit(bindparam("count"))
)


def _first_visible(statement: Select[Any], order: ColumnElement[str]) -> Select[Any]:
    """Return the first page of the repositories that one reason lets an account see."""
    page = (
        statement.where(repositories.c.name > bindparam("last"))
        .order_by(order)
        .limit(bindparam("count"))
        .subquery()
    )
    return select(page.c.name)


def _visible_to(condition: ColumnElement[bool]) -> Select[Any]:
    """Return the first page along an index that begins with what the condition is about."""
    return _first_visible(select(repositories.c.name).where(condition), repositories.c.name)


def _granted_by(target: ColumnElement[bool]) -> Select[Any]:
    """Return the first page of what an account's grants give it.

    In an order that no index has, or PostgreSQL's generic plan walks along all names instead and
    asks of each whether it was granted.
    """
    statement = (
        select(repositories.c.name)
        .join_from(grants, repositories, target)
        .where(grants.c.account_id == bindparam("account_id"))
    )
    return _first_visible(statement, repositories.c.name + "")


# A page for each reason, then the first of these. One walk through all names, asking of each
# whether the account may see it, reads the whole catalog for somebody who may see little.
CATALOG_PAGE_OF_ACCOUNT = Lookup(
    union(
        _visible_to(repositories.c.visibility == str(Visibility.PUBLIC)),
        _visible_to(repositories.c.namespace_id == bindparam("account_id")),
        _granted_by(repositories.c.id == grants.c.repository_id),
        _granted_by(repositories.c.namespace_id == grants.c.namespace_id),
    )
    .order_by("name")
    .limit(bindparam("count"))
)


@dataclass(frozen=True, slots=True)
class RepositorySummary:
    """A repository as it is listed."""

    name: str
    visibility: str
    tags: int
    manifests: int
    pulls: int
    last_pulled_at: float | None
    bytes: int
    untagged: Untagged
    """What no tag leads to."""


def find_repository(reader: Reader, name: RepositoryName) -> Repository | None:
    """Return the repository called `name`, if there is one."""
    row = reader.first(FIND_REPOSITORY, {"name": name})
    return repository_of(name, row) if row else None


def ensure_repository(
    writer: Writer,
    name: RepositoryName,
    visibility: Visibility = Visibility.PRIVATE,
    *,
    is_provisional: bool = False,
) -> Repository:
    """Return the repository called `name`, created, with its namespace, when it is missing.

    One that is created as provisional goes again, if nothing comes of it (`forget_if_empty`).
    """
    found = find_repository(writer, name)
    if found is not None:
        return found
    namespace_id = _ensure_namespace(writer, name.namespace)
    values = {
        "namespace_id": namespace_id,
        "name": str(name),
        "visibility": str(visibility),
        "created_at": writer.now(),
        "is_provisional": is_provisional,
    }
    statement = insert(repositories).values(values).returning(repositories.c.id)
    made_id = int(writer.scalar(statement))
    return Repository(made_id, name, namespace_id, visibility, is_provisional)


def settle_repository(writer: Writer, repository_id: int) -> None:
    """Have a repository stay, whatever becomes of what is in it."""
    settled = update(repositories).where(repositories.c.id == repository_id)
    writer.execute(settled.values(is_provisional=False))


def list_repositories(reader: Reader, namespace_id: int | None) -> list[RepositorySummary]:
    """Return all repositories, or those of a namespace, by name."""
    repository = repositories.c.id
    tag_count = select(func.count()).where(tags.c.repository_id == repository)
    manifest_count = select(func.count()).where(manifests.c.repository_id == repository)
    statement = (
        select(
            repositories.c.id,
            repositories.c.name,
            repositories.c.visibility,
            tag_count.scalar_subquery().label("tags"),
            manifest_count.scalar_subquery().label("manifests"),
            func.coalesce(repository_pulls.c.pulls, 0).label("pulls"),
            repository_pulls.c.last_pulled_at,
        )
        .outerjoin_from(repositories, repository_pulls)
        .order_by(repositories.c.name)
    )
    if namespace_id is not None:
        statement = statement.where(repositories.c.namespace_id == namespace_id)
    sizes = bytes_by_repository(reader, namespace_id)
    untagged = untagged_by_repository(reader, namespace_id)
    return [
        RepositorySummary(
            name=row.name,
            visibility=row.visibility,
            tags=row.tags,
            manifests=row.manifests,
            pulls=row.pulls,
            last_pulled_at=row.last_pulled_at,
            bytes=sizes.get(row.id, 0),
            untagged=untagged.get(row.id, Untagged()),
        )
        for row in reader.execute(statement)
    ]


def set_visibility(writer: Writer, repository_id: int, visibility: Visibility) -> None:
    """Say who may pull without a grant; whoever does wants the repository to stay."""
    writer.execute(
        update(repositories)
        .where(repositories.c.id == repository_id)
        .values(visibility=str(visibility), is_provisional=False)
    )


def remove_repository(writer: Writer, repository_id: int) -> list[str]:
    """Delete a repository with all that is in it; return its open upload sessions.

    Blobs that no other repository links are condemned.
    """
    session_ids = select(uploads.c.id).where(uploads.c.repository_id == repository_id)
    sessions = [row[0] for row in writer.execute(session_ids)]
    elsewhere = repository_blobs.alias("elsewhere")
    only_here = (
        select(repository_blobs.c.digest)
        .where(repository_blobs.c.repository_id == repository_id)
        .where(
            ~exists().where(
                elsewhere.c.digest == repository_blobs.c.digest,
                elsewhere.c.repository_id != repository_id,
            )
        )
    )
    writer.execute(
        update(blobs)
        .where(blobs.c.digest.in_(only_here), blobs.c.state == LIVE)
        .values(state="condemned")
    )
    # References go with their manifests (ON DELETE CASCADE).
    for table in (uploads, tags, manifests, repository_blobs, grants):
        writer.execute(delete(table).where(table.c.repository_id == repository_id))
    writer.execute(delete(repositories).where(repositories.c.id == repository_id))
    return sessions


def forget_if_empty(writer: Writer, repository_id: int) -> None:
    """Forget a repository of which nothing came: its first push was refused or given up.

    Only one that a push made and would make again just so, whoever pushes: no manifest ever came,
    it holds nothing, no upload is open, it is private, nobody was granted anything in it, and
    nobody may push there through a grant on its namespace who may not create it. A push that began
    meanwhile makes it again: the permit of a push to a provisional one is for the name.
    """
    contents = (manifests, repository_blobs, uploads, grants)
    may_push_only = exists().where(
        grants.c.namespace_id == repositories.c.namespace_id,
        grants.c.level == int(Level.READ_WRITE),
    )
    writer.execute(
        delete(repositories).where(
            repositories.c.id == repository_id,
            repositories.c.is_provisional,
            repositories.c.visibility == str(Visibility.PRIVATE),
            ~may_push_only,
            *(~exists().where(table.c.repository_id == repository_id) for table in contents),
        )
    )


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
        "created_at": writer.now(),
    }
    return int(writer.scalar(insert(accounts).values(values).returning(accounts.c.id)))
