"""Rights inside of a unit of work: what the gate found is looked at again where it is written.

A body may take minutes to arrive. Who was let in when it began may have lost the right to write
by the time it ends: a grant revoked, a user disabled, an access token revoked or expired, the
repository removed and another one made under its name.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar

from dtr.accounts import records
from dtr.database import Reader, Writer
from dtr.model.access import (
    NEEDED,
    Action,
    Door,
    Level,
    Permit,
    Principal,
    Visibility,
    level_of,
)
from dtr.model.errors import (
    DeniedError,
    NameUnknownError,
    ReadOnlyError,
    UnauthorizedError,
    UnavailableError,
    UnknownError,
)
from dtr.model.names import RepositoryName
from dtr.model.read_only import ReadOnlyMode

T = TypeVar("T")


def permitted(
    writer: Writer, permit: Permit, clock: Callable[[], float], unit: Callable[[Writer], T]
) -> T:
    """Run a unit of work if `permit` still holds, in the same transaction.

    Raises:
        UnauthorizedError, DeniedError, NameUnknownError, ReadOnlyError: it does not; nothing was
            written.
        UnavailableError: it does not, and an earlier attempt may have been committed before.

    """
    try:
        check(writer, permit, clock())
    except (UnauthorizedError, DeniedError, UnknownError, ReadOnlyError):
        if writer.may_have_run:
            message = "whether this was written before the right to it ended is not known"
            raise UnavailableError(message) from None
        raise
    return unit(writer)


def check(reader: Reader, permit: Permit, now: float) -> None:
    """Make sure that what the gate let pass may still be done.

    A bearer token's own end does not matter here: it says until when requests may begin.

    Raises:
        UnauthorizedError: the account or the access token behind the credential has changed.
        NameUnknownError: the repository is not the one that it was.
        DeniedError: the account may not any more.
        ReadOnlyError: nobody may change content at the moment.

    """
    principal = permit.credential.principal
    if principal.account_id is None:
        raise DeniedError(name=str(permit.name), action=str(permit.access.action))
    row = reader.first(
        records.PERMITTED,
        {
            "account_id": principal.account_id,
            "name": permit.name or "",
            "token_id": permit.credential.token_id,
        },
    )
    if row is None:
        raise _changed()
    is_active, epoch, is_admin, repository_id, namespace_id, visibility = row[:6]
    token_id, expires_at, read_only = row[6:]
    if not is_active or epoch != permit.credential.epoch:
        raise _changed()
    is_token_gone = token_id is None or (expires_at is not None and expires_at <= now)
    if permit.credential.token_id is not None and is_token_gone:
        raise UnauthorizedError("the access token of this login has expired or was revoked")
    if read_only is not None and permit.name is not None:
        raise ReadOnlyMode.parse(read_only).error
    if principal.is_admin != bool(is_admin):
        principal = replace(principal, is_admin=bool(is_admin))
    found = None
    if repository_id is not None:
        found = _Found(repository_id, namespace_id, Visibility(visibility))
    _check_action(reader, permit, principal, found)


class _Found(NamedTuple):
    """The repository that has the permit's name now."""

    id: int
    namespace_id: int
    visibility: Visibility


def _changed() -> UnauthorizedError:
    return UnauthorizedError("the account of this login has changed; log in again")


def _check_action(
    reader: Reader, permit: Permit, principal: Principal, found: _Found | None
) -> None:
    """Make sure that the principal, as it is now, may do what it was let in for."""
    name, action = permit.name, permit.access.action
    if name is None:
        if permit.access.door is not Door.ADMINISTRATOR or not principal.acts_as_admin:
            raise DeniedError("only an administrator may do this")
        return
    if action is None:
        raise DeniedError(name=str(name), action=str(action))
    if permit.repository_id is not None and (found is None or found.id != permit.repository_id):
        raise NameUnknownError("the repository was removed meanwhile", name=str(name))
    if found is None:
        # What is new is created: by whoever administers the namespace, whatever the token's level.
        may = level_to_create(reader, replace(principal, ceiling=Level.ADMIN), name)
        is_allowed = may is Level.ADMIN and principal.ceiling >= NEEDED[action]
    else:
        may = level_in(
            reader,
            principal,
            found.id,
            namespace_id=found.namespace_id,
            visibility=found.visibility,
        )
        is_allowed = may >= NEEDED[action]
    if not is_allowed:
        raise DeniedError(name=str(name), action=str(action))


def may_pull(reader: Reader, principal: Principal, repository_id: int) -> bool:
    """Tell whether a principal may pull from a repository; either may be gone."""
    row = reader.first(records.FIND_REPOSITORY_BY_ID, {"id": repository_id})
    account = reader.first(records.FIND_ACCOUNT, {"id": principal.account_id})
    if row is None or account is None:
        return False
    principal = replace(principal, is_admin=records.account_of(account).is_admin)
    visibility = Visibility(row[1])
    found = level_in(reader, principal, repository_id, namespace_id=row[0], visibility=visibility)
    return found >= NEEDED[Action.PULL]


def level_in(
    reader: Reader,
    principal: Principal,
    repository_id: int,
    *,
    namespace_id: int,
    visibility: Visibility,
) -> Level:
    """Return what a principal may do with a repository."""
    owns = principal.account_id == namespace_id
    granted = Level.NONE
    if not (principal.is_anonymous or principal.is_admin or owns):
        parameters = {
            "account_id": principal.account_id,
            "repository_id": repository_id,
            "namespace_id": namespace_id,
        }
        granted = _granted(reader.first(records.FIND_GRANT, parameters))
    return level_of(principal, owns_namespace=owns, visibility=visibility, granted=granted)


def level_to_create(reader: Reader, principal: Principal, name: RepositoryName) -> Level:
    """Return what a principal may do with a repository that does not exist yet."""
    owns = principal.name == name.namespace and not principal.is_anonymous
    granted = Level.NONE
    if not (principal.is_anonymous or principal.is_admin or owns):
        parameters = {"account_id": principal.account_id, "namespace": name.namespace}
        granted = _granted(reader.first(records.FIND_NAMESPACE_GRANT, parameters))
    return level_of(principal, owns_namespace=owns, visibility=None, granted=granted)


def _granted(row: tuple[int | None, ...] | None) -> Level:
    return Level(row[0]) if row and row[0] is not None else Level.NONE
