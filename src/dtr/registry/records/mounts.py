"""Where a blob may be mounted from, when the client does not say (distribution-spec end-11)."""

from sqlalchemy import CTE, Select, and_, or_, select, true, union_all

from dtr.database import Reader
from dtr.database.schema import blobs, grants, repositories, repository_blobs
from dtr.model.access import Action, Level, Principal, Scope, Visibility
from dtr.model.digest import Digest
from dtr.registry.records.blobs import LIVE

_MOST_SOURCES = 3
_MOST_CANDIDATES = 500
_MOST_NAMESPACES = 20


def mount_sources(reader: Reader, digest: Digest, principal: Principal) -> list[int]:
    """Return some repositories that have a blob and that the principal may pull from.

    A token's scope limits them to what it names. The statement begins with what the principal may
    read and never with the digest, so that the time it takes tells nothing about what others have.
    Up to 500 repositories are considered of each namespace, the newest, and of each other reason
    why a repository may be read.
    """
    if principal.account_id is None or principal.ceiling < Level.READ_ONLY:
        return []
    if principal.is_admin and principal.scope is None:
        return _anywhere(reader, digest)
    candidates = _candidates(reader, principal)
    # Asked of each candidate by the key of its row, and of nothing else: a join with the blobs
    # could begin there, and be over sooner where nobody at all has the digest.
    has_it = (
        select(repository_blobs.c.repository_id)
        .where(
            repository_blobs.c.repository_id == candidates.c.id,
            repository_blobs.c.digest == str(digest),
        )
        .limit(1)
        .scalar_subquery()
        .is_not(None)
    )
    statement = select(candidates.c.id).where(has_it).limit(_MOST_SOURCES)
    return list(dict.fromkeys(int(row[0]) for row in reader.execute(statement)))


def _anywhere(reader: Reader, digest: Digest) -> list[int]:
    """Return some repositories that have a blob, for somebody who may read all of them."""
    statement = (
        select(repository_blobs.c.repository_id)
        .join_from(repository_blobs, blobs, blobs.c.digest == repository_blobs.c.digest)
        .where(repository_blobs.c.digest == str(digest), blobs.c.state == LIVE)
        .limit(_MOST_SOURCES)
    )
    return [int(row[0]) for row in reader.execute(statement)]


def _candidates(reader: Reader, principal: Principal) -> CTE:
    if principal.scope is not None:
        reasons = [_named(principal, principal.scope)]
    else:
        reasons = _readable(reader, principal)
    pages = [reason.limit(_MOST_CANDIDATES).subquery() for reason in reasons]
    return union_all(*(select(page.c.id) for page in pages)).cte("candidates")


def _named(principal: Principal, scope: Scope) -> Select[tuple[int]]:
    """Return the repositories that the token names, as far as the account may read them."""
    names = [name for name in scope.repositories if scope.allows(name, Action.PULL)]
    bound = {name: scope.ids[name] for name in names if name in scope.ids}
    unbound = [name for name in names if name not in bound]
    named = or_(
        repositories.c.name.in_(unbound),
        *(and_(repositories.c.name == n, repositories.c.id == i) for n, i in bound.items()),
    )
    account = principal.account_id
    mine = grants.c.account_id == account
    readable = or_(
        true() if principal.is_admin else repositories.c.namespace_id == account,
        repositories.c.visibility == str(Visibility.PUBLIC),
        repositories.c.id.in_(select(grants.c.repository_id).where(mine)),
        repositories.c.namespace_id.in_(select(grants.c.namespace_id).where(mine)),
    )
    return select(repositories.c.id).where(named, readable)


def _readable(reader: Reader, principal: Principal) -> list[Select[tuple[int]]]:
    """Return the repositories that an account may read, a query for each reason."""
    account, found = principal.account_id, select(repositories.c.id)
    is_mine = grants.c.account_id == account
    granted = (
        select(grants.c.namespace_id)
        .where(is_mine, grants.c.namespace_id.is_not(None))
        .limit(_MOST_NAMESPACES)
    )
    namespaces = [account, *(row[0] for row in reader.execute(granted))]
    # Sorted by what no index has: PostgreSQL shall take the namespace's rows, and not walk along
    # all repositories until it has enough of them.
    newest = (repositories.c.id + 0).desc()
    return [
        *(found.where(repositories.c.namespace_id == n).order_by(newest) for n in namespaces),
        found.join_from(grants, repositories, repositories.c.id == grants.c.repository_id)
        .where(is_mine)
        .order_by(newest),
        found.where(repositories.c.visibility == str(Visibility.PUBLIC)).order_by(
            repositories.c.name
        ),
    ]
