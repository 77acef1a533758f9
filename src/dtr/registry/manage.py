"""What administrators do with repositories: units of work for the command line."""

from dataclasses import dataclass

from dtr.accounts import manage as accounts
from dtr.accounts import records as account_records
from dtr.accounts.records import Account
from dtr.database import Database, Reader, Writer
from dtr.model.access import Level, Repository, Visibility
from dtr.model.errors import InvalidError, NameUnknownError
from dtr.model.names import RepositoryName
from dtr.registry import records
from dtr.registry.records import RepositorySummary


def require_repository(reader: Reader, name: RepositoryName) -> Repository:
    """Return the repository called `name`.

    Raises:
        NameUnknownError: there is none.

    """
    found = records.find_repository(reader, name)
    if found is None:
        raise NameUnknownError(f"there is no repository called {name}; dtr repo list shows all")
    return found


def list_repositories(reader: Reader, namespace: str | None) -> list[RepositorySummary]:
    """Return all repositories, or those of a namespace, by name."""
    if namespace is None:
        return records.list_repositories(reader, None)
    return records.list_repositories(reader, accounts.require_account(reader, namespace).id)


def create_repository(writer: Writer, name: RepositoryName, visibility: Visibility) -> Repository:
    """Create a repository in an existing namespace.

    Raises:
        InvalidError: there is one called so already.

    """
    accounts.require_account(writer, name.namespace)
    ran_before = writer.ran_before()
    if records.find_repository(writer, name) is not None and not ran_before:
        raise InvalidError(f"there is already a repository called {name}")
    return records.ensure_repository(writer, name, visibility)


def finish_edges(database: Database) -> None:
    """Make the edges that an older program did not, before a report goes by them."""
    if not database.read_now(records.has_all_edges):
        while database.write_now(records.make_edges):
            pass


def set_visibility(writer: Writer, name: RepositoryName, visibility: Visibility) -> None:
    """Say who may pull without a grant."""
    records.set_visibility(writer, require_repository(writer, name).id, visibility)


def remove_repository(writer: Writer, name: RepositoryName) -> list[str]:
    """Delete a repository; return its open upload sessions, whose bytes the caller discards.

    Bytes that no other repository has are collected afterwards.
    """
    if writer.ran_before():
        return []
    return records.remove_repository(writer, require_repository(writer, name).id)


def grant(writer: Writer, name: str, user: str, level: Level, *, whole_namespace: bool) -> None:
    """Let a user do what `level` says with a repository, or with a whole namespace."""
    account = accounts.require_account(writer, user)
    if whole_namespace:
        namespace = accounts.require_account(writer, name)
        account_records.set_grant(writer, account.id, level, namespace_id=namespace.id)
    else:
        repository = require_repository(writer, RepositoryName.parse(name))
        account_records.set_grant(writer, account.id, level, repository_id=repository.id)


@dataclass(frozen=True, slots=True)
class Way:
    """One reason why somebody may do something with a repository or a namespace."""

    level: Level
    where: str
    reason: str


def revoke(
    writer: Writer, name: str, user: str, *, whole_namespace: bool
) -> tuple[Level, list[Way]]:
    """Take a grant away; return its level, and in which ways the user still has access.

    The level is `NONE` where there was no such grant.
    """
    account = accounts.require_account(writer, user)
    space = name if whole_namespace else RepositoryName.parse(name).namespace
    namespace = accounts.require_account(writer, space)
    repository = None if whole_namespace else require_repository(writer, RepositoryName.parse(name))
    before = _own_grant(writer, account.id, namespace.id, repository)
    grant(writer, name, user, Level.NONE, whole_namespace=whole_namespace)
    return before, _ways(writer, account, namespace, repository, name)


def _own_grant(
    reader: Reader, account_id: int, namespace_id: int, repository: Repository | None
) -> Level:
    grants = account_records.grants_of(reader, account_id, namespace_id)
    wanted = None if repository is None else str(repository.name)
    return next((level for name, level in grants if name == wanted), Level.NONE)


def _ways(
    reader: Reader, account: Account, namespace: Account, repository: Repository | None, name: str
) -> list[Way]:
    """Return why the account may still do something there, the strongest reason first."""
    found = []
    if account.is_admin:
        found.append(Way(Level.ADMIN, name, "as an administrator"))
    if account.id == namespace.id:
        found.append(Way(Level.ADMIN, name, "because the namespace is their own"))
    for granted, level in account_records.grants_of(reader, account.id, namespace.id):
        if granted is None:
            found.append(Way(level, name, f"through the grant on the namespace {namespace.name}"))
        elif repository is None:
            found.append(Way(level, granted, "through the grant on that repository"))
    if repository is not None and repository.visibility is Visibility.PUBLIC:
        found.append(Way(Level.READ_ONLY, name, "because the repository is public"))
    return sorted(found, key=lambda way: -way.level)


def list_grants(reader: Reader, name: RepositoryName) -> list[tuple[str, Level]]:
    """Return who was granted what on a repository."""
    repository = require_repository(reader, name)
    return account_records.list_grants(reader, repository.id, repository.namespace_id)
