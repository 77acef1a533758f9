"""Statements about accounts, tokens, keys, grants and repositories as the gate sees them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, bindparam, delete, func, insert, or_, select, update

from dtr.database import Change, Lookup, Reader, Writer
from dtr.database.schema import (
    accounts,
    failed_logins,
    finished_units,
    grants,
    repositories,
    settings,
    signing_keys,
    tokens,
)
from dtr.database.statements import insert_unless_there
from dtr.model.access import Level, Repository, Visibility
from dtr.model.names import RepositoryName
from dtr.model.read_only import READ_ONLY_KEY


@dataclass(frozen=True, slots=True)
class Account:
    """A user or an organization; its name is its namespace."""

    id: int
    name: str
    kind: str
    is_admin: bool
    is_active: bool
    epoch: int


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A random secret that stands for a user, kept as a hash."""

    id: int
    account_id: int
    kind: str
    label: str
    level: Level
    created_at: float
    expires_at: float | None
    last_used_at: float | None
    parent_id: int | None

    def is_live(self, now: float) -> bool:
        """Not yet expired."""
        return self.expires_at is None or self.expires_at > now


# No attempt at a unit of work comes later than `database.failover_wait_seconds`, an hour at most.
_LONGEST_WAIT_SECONDS = 2 * 3600
_KNOWN_SECONDS = 30 * 86400

_ACCOUNT = (
    accounts.c.id,
    accounts.c.name,
    accounts.c.kind,
    accounts.c.is_admin,
    accounts.c.is_active,
    accounts.c.epoch,
)
_TOKEN = (
    tokens.c.id,
    tokens.c.account_id,
    tokens.c.kind,
    tokens.c.label,
    tokens.c.level,
    tokens.c.created_at,
    tokens.c.expires_at,
    tokens.c.last_used_at,
    tokens.c.parent_id,
)

FIND_ACCOUNT = Lookup(select(*_ACCOUNT).where(accounts.c.id == bindparam("id")))
FIND_CREDENTIAL = Lookup(
    select(*_ACCOUNT, accounts.c.password_hash).where(accounts.c.name == bindparam("name"))
)
FIND_TOKEN = Lookup(select(*_TOKEN).where(tokens.c.secret_hash == bindparam("secret_hash")))
TOKEN_EXISTS = Lookup(
    select(tokens.c.id).where(
        tokens.c.id == bindparam("id"),
        or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > bindparam("now")),
    )
)
FIND_REPOSITORY = Lookup(
    select(
        repositories.c.id,
        repositories.c.namespace_id,
        repositories.c.visibility,
        repositories.c.is_provisional,
    ).where(repositories.c.name == bindparam("name"))
)
FIND_GRANT = Lookup(
    select(func.max(grants.c.level)).where(
        grants.c.account_id == bindparam("account_id"),
        or_(
            grants.c.repository_id == bindparam("repository_id"),
            grants.c.namespace_id == bindparam("namespace_id"),
        ),
    )
)
PERMITTED = Lookup(
    select(
        accounts.c.is_active,
        accounts.c.epoch,
        accounts.c.is_admin,
        repositories.c.id,
        repositories.c.namespace_id,
        repositories.c.visibility,
        tokens.c.id,
        tokens.c.expires_at,
        select(settings.c.value).where(settings.c.key == READ_ONLY_KEY).scalar_subquery(),
    )
    .select_from(
        accounts.outerjoin(repositories, repositories.c.name == bindparam("name")).outerjoin(
            tokens,
            and_(tokens.c.id == bindparam("token_id"), tokens.c.account_id == accounts.c.id),
        )
    )
    .where(accounts.c.id == bindparam("account_id"))
)
"""Who, by which access token, in which repository, and whether nothing may be written: one row, or
none where there is no account."""
FIND_REPOSITORY_BY_ID = Lookup(
    select(repositories.c.namespace_id, repositories.c.visibility).where(
        repositories.c.id == bindparam("id")
    )
)
FIND_NAMESPACE_GRANT = Lookup(
    select(func.max(grants.c.level)).where(
        grants.c.account_id == bindparam("account_id"),
        grants.c.namespace_id.in_(
            select(accounts.c.id).where(accounts.c.name == bindparam("namespace"))
        ),
    )
)
FAILURES = Lookup(
    select(failed_logins.c.subject, failed_logins.c.failures, failed_logins.c.last_at).where(
        failed_logins.c.subject.in_(
            [bindparam("pair"), bindparam("known"), bindparam("address")],
        )
    )
)
ADD_FAILURES = Change(
    insert_unless_there(failed_logins, "subject").values(
        subject=bindparam("subject"), failures=bindparam("count"), last_at=bindparam("at")
    )
)
COUNT_FAILURE = Change(
    update(failed_logins)
    .where(failed_logins.c.subject == bindparam("which"))
    .values(failures=failed_logins.c.failures + bindparam("more"), last_at=bindparam("at"))
)
FORGIVE_ADDRESS = Change(
    update(failed_logins)
    .where(failed_logins.c.subject == bindparam("which"), failed_logins.c.failures > 0)
    .values(failures=failed_logins.c.failures - 1)
)
FORGET_FAILURES = Change(
    delete(failed_logins).where(failed_logins.c.subject == bindparam("subject"))
)
SIGNING_KEYS = Lookup(
    select(signing_keys.c.id, signing_keys.c.private_key, signing_keys.c.created_at)
    .where(signing_keys.c.expires_at > bindparam("now"))
    .order_by(signing_keys.c.created_at)
)


def account_of(row: Sequence[Any]) -> Account:
    """Return the account in a row of the account columns."""
    return Account(row[0], row[1], row[2], bool(row[3]), bool(row[4]), row[5])


def token_of(row: Sequence[Any]) -> AccessToken:
    """Return the token in a row of the token columns."""
    return AccessToken(row[0], row[1], row[2], row[3], Level(row[4]), *row[5:9])


def repository_of(name: RepositoryName, row: Sequence[Any]) -> Repository:
    """Return the repository in a row of `FIND_REPOSITORY`."""
    return Repository(row[0], name, row[1], Visibility(row[2]), bool(row[3]))


def find_account(reader: Reader, name: str) -> Account | None:
    """Return the account called `name`."""
    row = reader.execute(select(*_ACCOUNT).where(accounts.c.name == name)).first()
    return account_of(row) if row else None


def list_accounts(reader: Reader) -> list[Account]:
    """Return all accounts by name."""
    rows = reader.execute(select(*_ACCOUNT).order_by(accounts.c.name))
    return [account_of(row) for row in rows]


def add_account(
    writer: Writer, name: str, *, kind: str, password_hash: str | None, is_admin: bool = False
) -> Account:
    """Insert an account whose name is free."""
    values = {
        "name": name,
        "kind": kind,
        "password_hash": password_hash,
        "is_admin": is_admin,
        "is_active": True,
        "epoch": 1,
        "created_at": writer.now(),
    }
    row = writer.execute(insert(accounts).values(values).returning(*_ACCOUNT)).one()
    return account_of(row)


def change_account(writer: Writer, account_id: int, **values: Any) -> None:
    """Change columns of an account, and with them its epoch, which voids its bearer tokens."""
    writer.execute(
        update(accounts)
        .where(accounts.c.id == account_id)
        .values(**values, epoch=accounts.c.epoch + 1)
    )


def remove_account(writer: Writer, account_id: int) -> None:
    """Delete an account, its tokens and grants; its repositories must be gone."""
    writer.execute(delete(accounts).where(accounts.c.id == account_id))


def count_repositories(reader: Reader, namespace_id: int) -> int:
    """Return how many repositories the namespace has."""
    where = repositories.c.namespace_id == namespace_id
    return int(reader.scalar(select(func.count()).select_from(repositories).where(where)))


def count_administrators(reader: Reader) -> int:
    """Return how many administrators can still log in."""
    where = and_(accounts.c.is_admin, accounts.c.is_active)
    return int(reader.scalar(select(func.count()).select_from(accounts).where(where)))


def add_token(
    writer: Writer,
    account_id: int,
    *,
    kind: str,
    secret_hash: str,
    label: str,
    level: Level,
    expires_at: float | None,
    parent_id: int | None = None,
) -> AccessToken:
    """Insert a token; its secret is its own, so that one which is here is this very one."""
    made = find_token(writer, secret_hash)
    if made is not None:
        return made
    values = {
        "account_id": account_id,
        "kind": kind,
        "secret_hash": secret_hash,
        "label": label,
        "level": int(level),
        "created_at": writer.now(),
        "expires_at": expires_at,
        "parent_id": parent_id,
    }
    return token_of(writer.execute(insert(tokens).values(values).returning(*_TOKEN)).one())


def find_token(reader: Reader, secret_hash: str) -> AccessToken | None:
    """Return the token that a secret stands for."""
    row = reader.first(FIND_TOKEN, {"secret_hash": secret_hash})
    return token_of(row) if row else None


def list_tokens(reader: Reader, account_id: int) -> list[AccessToken]:
    """Return an account's access tokens, oldest first, without those that clients refresh with."""
    where = and_(tokens.c.account_id == account_id, tokens.c.kind == "access")
    return [
        token_of(row) for row in reader.execute(select(*_TOKEN).where(where).order_by(tokens.c.id))
    ]


def remove_tokens(writer: Writer, account_id: int, *, token_id: int | None = None) -> int:
    """Delete one of an account's tokens, or all; return how many there were."""
    where = tokens.c.account_id == account_id
    if token_id is not None:
        where = and_(where, tokens.c.id == token_id)
    return writer.execute(delete(tokens).where(where)).rowcount


def remove_refresh_tokens(writer: Writer, account_id: int) -> None:
    """Delete what an account's clients refresh with."""
    where = and_(tokens.c.account_id == account_id, tokens.c.kind == "refresh")
    writer.execute(delete(tokens).where(where))


def has_token(reader: Reader, token_id: int) -> bool:
    """Tell whether a token is still there."""
    return reader.execute(select(tokens.c.id).where(tokens.c.id == token_id)).first() is not None


def remove_oldest_refresh_tokens(writer: Writer, account_id: int, *, keep: int) -> None:
    """Delete an account's refresh tokens but for the `keep` that were used or made last."""
    mine = and_(tokens.c.account_id == account_id, tokens.c.kind == "refresh")
    last = func.coalesce(tokens.c.last_used_at, tokens.c.created_at)
    oldest = select(tokens.c.id).where(mine).order_by(last.desc(), tokens.c.id.desc()).offset(keep)
    # A bound that both engines want to see beside an offset; more come one by one.
    writer.execute(delete(tokens).where(tokens.c.id.in_(oldest.limit(1000))))


def mark_tokens_used(writer: Writer, used: dict[int, float]) -> None:
    """Record when tokens were last used, gathered over a while."""
    statement = (
        update(tokens).where(tokens.c.id == bindparam("token")).values(last_used_at=bindparam("at"))
    )
    writer.execute(statement, [{"token": token, "at": at} for token, at in used.items()])


def remove_expired(writer: Writer, now: float, *, forget_failures_before: float) -> int:
    """Delete tokens, keys, throttling records and noted units that mean nothing any more."""
    removed = 0
    for statement in (
        delete(tokens).where(tokens.c.expires_at <= now),
        delete(signing_keys).where(signing_keys.c.expires_at <= now),
        delete(failed_logins).where(
            failed_logins.c.last_at < forget_failures_before,
            # Without a failure: who has logged in from where, which is worth more.
            or_(failed_logins.c.failures > 0, failed_logins.c.last_at < now - _KNOWN_SECONDS),
        ),
        delete(finished_units).where(finished_units.c.finished_at < now - _LONGEST_WAIT_SECONDS),
    ):
        removed += writer.execute(statement).rowcount
    return removed


def record_failure(writer: Writer, pair: str, address: str, now: float) -> None:
    """Count a failed login of a name at an address; only the name's first for the address."""
    if writer.ran_before():
        return
    is_first = _count_failure(writer, pair, 1, now)
    if address and is_first:
        _count_failure(writer, address, 1, now)


def _count_failure(writer: Writer, subject: str, more: int, now: float) -> bool:
    """Add to a count; return whether it was made."""
    if writer.change(ADD_FAILURES, {"subject": subject, "count": more, "at": now}):
        return True
    writer.change(COUNT_FAILURE, {"which": subject, "more": more, "at": now})
    return False


def forgive_failures(writer: Writer, pair: str, address: str) -> None:
    """Start counting anew after a successful login, and take back what counts for the address."""
    if writer.change(FORGET_FAILURES, {"subject": pair}) and address:
        writer.change(FORGIVE_ADDRESS, {"which": address})


def note_known(writer: Writer, known: Mapping[str, float]) -> None:
    """Note who has logged in from where, gathered over a while."""
    for subject, at in sorted(known.items()):
        _count_failure(writer, subject, 0, at)


def newest_key_time(reader: Reader) -> float | None:
    """Return when the newest signing key was made."""
    found = reader.scalar(select(func.max(signing_keys.c.created_at)))
    return None if found is None else float(found)


def add_signing_key(
    writer: Writer, key_id: str, private_key: str, *, now: float, expires_at: float
) -> None:
    """Insert a signing key."""
    writer.execute(
        insert(signing_keys).values(
            id=key_id, private_key=private_key, created_at=now, expires_at=expires_at
        )
    )


def set_grant(
    writer: Writer,
    account_id: int,
    level: Level,
    *,
    namespace_id: int | None = None,
    repository_id: int | None = None,
) -> None:
    """Grant `level` on a namespace or a repository; `Level.NONE` takes the grant away."""
    target = (
        grants.c.repository_id == repository_id
        if repository_id is not None
        else grants.c.namespace_id == namespace_id
    )
    writer.execute(delete(grants).where(grants.c.account_id == account_id, target))
    if level is not Level.NONE:
        writer.execute(
            insert(grants).values(
                account_id=account_id,
                namespace_id=namespace_id,
                repository_id=repository_id,
                level=int(level),
            )
        )


def grants_of(reader: Reader, account_id: int, namespace_id: int) -> list[tuple[str | None, Level]]:
    """Return an account's grants in a namespace: on repositories by name, on all of it as None."""
    rows = reader.execute(
        select(repositories.c.name, grants.c.level)
        .select_from(grants.outerjoin(repositories, repositories.c.id == grants.c.repository_id))
        .where(
            grants.c.account_id == account_id,
            or_(
                grants.c.namespace_id == namespace_id,
                repositories.c.namespace_id == namespace_id,
            ),
        )
        .order_by(repositories.c.name)
    )
    return [(row.name, Level(row.level)) for row in rows]


def list_grants(reader: Reader, repository_id: int, namespace_id: int) -> list[tuple[str, Level]]:
    """Return who was granted what on a repository, directly or through its namespace."""
    rows = reader.execute(
        select(accounts.c.name, func.max(grants.c.level).label("level"))
        .join_from(grants, accounts, accounts.c.id == grants.c.account_id)
        .where(
            or_(
                grants.c.repository_id == repository_id,
                grants.c.namespace_id == namespace_id,
            )
        )
        .group_by(accounts.c.name)
        .order_by(accounts.c.name)
    )
    return [(row.name, Level(row.level)) for row in rows]
