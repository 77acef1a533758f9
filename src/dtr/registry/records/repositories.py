"""Statements about repositories and the namespaces that they are in."""

import time

from sqlalchemy import bindparam, exists, insert, or_, select

from dtr.database import Lookup, Writer
from dtr.database.schema import (
    accounts,
    grants,
    repositories,
)
from dtr.model.access import Repository, Visibility
from dtr.model.names import RepositoryName

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
