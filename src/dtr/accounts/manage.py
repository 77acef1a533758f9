"""What administrators do with accounts, tokens and grants: units of work for the command line."""

from dtr.accounts import records
from dtr.accounts.passwords import hash_token
from dtr.accounts.records import AccessToken, Account
from dtr.database import Reader, Writer
from dtr.model.access import Level
from dtr.model.errors import InvalidError, UnknownError
from dtr.model.names import parse_account_name


class AccountUnknownError(UnknownError):
    """Account unknown to registry."""


class AccountConflictError(InvalidError):
    """The account is not in a state in which this can be done."""


def require_account(reader: Reader, name: str) -> Account:
    """Return the account called `name`.

    Raises:
        AccountUnknownError: there is none.

    """
    account = records.find_account(reader, name)
    if account is None:
        raise AccountUnknownError(f"there is no account called {name}; dtr user list shows all")
    return account


def add_user(writer: Writer, name: str, password_hash: str, *, is_admin: bool = False) -> Account:
    """Create a user.

    Raises:
        AccountConflictError: the name is taken.

    """
    return _found(writer, name) or records.add_account(
        writer, name, kind="user", password_hash=password_hash, is_admin=is_admin
    )


def add_organization(writer: Writer, name: str) -> Account:
    """Create an organization: an account that owns repositories and cannot log in.

    Raises:
        AccountConflictError: the name is taken.

    """
    return _found(writer, name) or records.add_account(
        writer, name, kind="organization", password_hash=None
    )


def _found(writer: Writer, name: str) -> Account | None:
    """Return the account that an earlier attempt of this unit made; refuse a name that is taken."""
    parse_account_name(name)
    ran_before = writer.ran_before()
    taken = records.find_account(writer, name)
    if taken is not None and not ran_before:
        kind = "a user" if taken.kind == "user" else "an organization"
        raise AccountConflictError(f"there is already {kind} called {name}; choose another name")
    return taken


def list_organizations(reader: Reader) -> list[tuple[Account, int]]:
    """Return the organizations, by name, each with the number of its repositories."""
    return [
        (account, records.count_repositories(reader, account.id))
        for account in records.list_accounts(reader)
        if account.kind == "organization"
    ]


def require_organization(reader: Reader, name: str) -> Account:
    """Return the organization called `name`.

    Raises:
        AccountUnknownError: there is none, or a user is called so.

    """
    account = require_account(reader, name)
    if account.kind != "organization":
        raise AccountUnknownError(f"there is no organization called {name}: that is a user")
    return account


def set_password(writer: Writer, name: str, password_hash: str) -> None:
    """Change a user's password; its bearer and refresh tokens are void at once."""
    account = require_account(writer, name)
    if account.kind != "user":
        raise AccountConflictError(
            f"the organization {name} has no password: nobody can log in as it"
        )
    records.change_account(writer, account.id, password_hash=password_hash)
    records.remove_refresh_tokens(writer, account.id)


def set_active(writer: Writer, name: str, *, is_active: bool) -> None:
    """Let a user log in, or not any more; either way bearer and refresh tokens are void at once.

    Raises:
        AccountConflictError: it is the last administrator.

    """
    account = require_account(writer, name)
    if not is_active:
        _keep_an_administrator(writer, account)
    records.change_account(writer, account.id, is_active=is_active)
    records.remove_refresh_tokens(writer, account.id)


def remove_user(writer: Writer, name: str) -> None:
    """Delete an account with its tokens and grants.

    Raises:
        AccountConflictError: it owns repositories, or is the last administrator.

    """
    if writer.ran_before():
        return
    account = require_account(writer, name)
    _keep_an_administrator(writer, account)
    owned = records.count_repositories(writer, account.id)
    if owned:
        also = ", or disable the user" if account.kind == "user" else ""
        message = f"the account {name} owns repositories ({owned}); remove them first{also}"
        raise AccountConflictError(message)
    records.remove_account(writer, account.id)


def create_token(
    writer: Writer,
    name: str,
    secret: str,
    *,
    label: str,
    level: Level,
    lifetime_seconds: float | None,
) -> AccessToken:
    """Create the access token `secret`, which is kept nowhere."""
    account = require_account(writer, name)
    if account.kind != "user":
        raise AccountConflictError(
            f"the account {name} is an organization; create the token for a user"
        )
    expires_at = None if lifetime_seconds is None else writer.now() + lifetime_seconds
    return records.add_token(
        writer,
        account.id,
        kind="access",
        secret_hash=hash_token(secret),
        label=label,
        level=level,
        expires_at=expires_at,
    )


def list_tokens(reader: Reader, name: str) -> list[AccessToken]:
    """Return a user's access tokens."""
    return records.list_tokens(reader, require_account(reader, name).id)


def revoke_token(writer: Writer, name: str, token_id: int | None) -> int:
    """Revoke one access token of a user, or all with every refresh token; return how many."""
    if writer.ran_before():
        return 1
    account = require_account(writer, name)
    removed = records.remove_tokens(writer, account.id, token_id=token_id)
    if token_id is None:
        records.change_account(writer, account.id)  # a new epoch: bearer tokens are void, too
    if token_id is not None and not removed:
        raise AccountUnknownError(
            f"the user {name} has no token {token_id}; dtr token list {name} shows the ids"
        )
    return removed


def _keep_an_administrator(reader: Reader, account: Account) -> None:
    if account.is_admin and account.is_active and records.count_administrators(reader) == 1:
        raise AccountConflictError(
            f"the user {account.name} is the last administrator who can log in: add another first"
        )
