"""What administrators do with repositories: units of work for the command line."""

from dataclasses import dataclass

from sqlalchemy import delete, func, select, update

from dtr.accounts import manage as accounts
from dtr.accounts import records as account_records
from dtr.database import Reader, Writer
from dtr.database.schema import (
    grants,
    manifests,
    repositories,
    repository_blobs,
    tags,
    uploads,
)
from dtr.model.access import Level, Repository, Visibility
from dtr.model.digest import Digest
from dtr.model.errors import InvalidError, NameUnknownError
from dtr.model.names import RepositoryName
from dtr.registry import records


@dataclass(frozen=True, slots=True)
class RepositorySummary:
    """A repository as it is listed."""

    name: str
    visibility: str
    tags: int
    manifests: int


def require_repository(reader: Reader, name: RepositoryName) -> Repository:
    """Return the repository called `name`.

    Raises:
        NameUnknownError: there is none.

    """
    row = reader.execute(select(repositories).where(repositories.c.name == name)).first()
    if row is None:
        raise NameUnknownError(f"there is no repository called {name}")
    return Repository(row.id, name, row.namespace_id, Visibility(row.visibility))


def list_repositories(reader: Reader, namespace: str | None) -> list[RepositorySummary]:
    """Return all repositories, or those of a namespace, by name."""
    repository = repositories.c.id
    tag_count = select(func.count()).where(tags.c.repository_id == repository).scalar_subquery()
    manifest_count = (
        select(func.count()).where(manifests.c.repository_id == repository).scalar_subquery()
    )
    statement = select(
        repositories.c.name, repositories.c.visibility, tag_count, manifest_count
    ).order_by(repositories.c.name)
    if namespace is not None:
        owner = accounts.require_account(reader, namespace)
        statement = statement.where(repositories.c.namespace_id == owner.id)
    return [RepositorySummary(*tuple(row)) for row in reader.execute(statement)]


def create_repository(writer: Writer, name: RepositoryName, visibility: Visibility) -> Repository:
    """Create a repository in an existing namespace.

    Raises:
        InvalidError: there is one called so already.

    """
    accounts.require_account(writer, name.namespace)
    taken = writer.scalar(select(repositories.c.id).where(repositories.c.name == name))
    if taken is not None:
        raise InvalidError(f"there is already a repository called {name}")
    return records.ensure_repository(writer, name, visibility)


def set_visibility(writer: Writer, name: RepositoryName, visibility: Visibility) -> None:
    """Say who may pull without a grant."""
    repository = require_repository(writer, name)
    writer.execute(
        update(repositories)
        .where(repositories.c.id == repository.id)
        .values(visibility=str(visibility))
    )


def remove_repository(writer: Writer, name: RepositoryName) -> list[str]:
    """Delete a repository; return its open upload sessions, whose bytes the caller discards.

    Bytes that no other repository has are collected afterwards.
    """
    repository = require_repository(writer, name)
    session_ids = select(uploads.c.id).where(uploads.c.repository_id == repository.id)
    sessions = [row[0] for row in writer.execute(session_ids)]
    linked = select(repository_blobs.c.digest).where(
        repository_blobs.c.repository_id == repository.id
    )
    digests = [Digest(row[0]) for row in writer.execute(linked)]
    for table in (uploads, tags):
        writer.execute(delete(table).where(table.c.repository_id == repository.id))
    # References go with their manifests (ON DELETE CASCADE).
    for table in (manifests, repository_blobs, grants):
        writer.execute(delete(table).where(table.c.repository_id == repository.id))
    for digest in digests:
        records.condemn_unlinked(writer, digest)
    writer.execute(delete(repositories).where(repositories.c.id == repository.id))
    return sessions


def grant(writer: Writer, name: str, user: str, level: Level, *, whole_namespace: bool) -> None:
    """Let a user do what `level` says with a repository, or with a whole namespace."""
    account = accounts.require_account(writer, user)
    if whole_namespace:
        namespace = accounts.require_account(writer, name)
        account_records.set_grant(writer, account.id, level, namespace_id=namespace.id)
    else:
        repository = require_repository(writer, RepositoryName.parse(name))
        account_records.set_grant(writer, account.id, level, repository_id=repository.id)


def list_grants(reader: Reader, name: RepositoryName) -> list[tuple[str, Level]]:
    """Return who was granted what on a repository."""
    repository = require_repository(reader, name)
    return account_records.list_grants(reader, repository.id, repository.namespace_id)
