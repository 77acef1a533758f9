"""Who may do what: actions, levels, and the one rule that decides (design 9). Pure."""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from dtr.model.names import RepositoryName


class Action(StrEnum):
    """What a client asks to do with a repository, in the words of Docker's token scopes."""

    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"
    ADMIN = "admin"


class Door(StrEnum):
    """Who may pass to a route."""

    OPEN = "open"
    """Anybody; the route tells nothing that needs an account."""
    ACCOUNT = "account"
    """Anybody with an account."""
    CATALOG = "catalog"
    """Anybody with an account, and with the catalog scope where the credential has scopes."""
    REPOSITORY = "repository"
    """Whoever may do the declared action in the repository that the path names."""
    OPERATOR = "operator"
    """Administrators, and everybody where the settings say that metrics are public."""
    ADMINISTRATOR = "administrator"
    """Administrators, whatever the settings say."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a route declares; the gate checks it once, before the handler runs."""

    door: Door
    action: Action | None = None


OPEN = Access(Door.OPEN)
ACCOUNT = Access(Door.ACCOUNT)
CATALOG = Access(Door.CATALOG)
OPERATOR = Access(Door.OPERATOR)
ADMINISTRATOR = Access(Door.ADMINISTRATOR)
MAY_PULL = Access(Door.REPOSITORY, Action.PULL)
MAY_PUSH = Access(Door.REPOSITORY, Action.PUSH)
MAY_DELETE = Access(Door.REPOSITORY, Action.DELETE)


class Level(IntEnum):
    """What somebody may do with a repository; each level includes those below it."""

    NONE = 0
    READ_ONLY = 1
    READ_WRITE = 2
    ADMIN = 3

    def __str__(self) -> str:
        return self.name.lower().replace("_", "-")

    @classmethod
    def parse(cls, text: str) -> "Level":
        """Return the level called `read-only`, `read-write` or `admin`.

        Raises:
            ValueError: any other text.

        """
        for level in (cls.READ_ONLY, cls.READ_WRITE, cls.ADMIN):
            if text == str(level):
                return level
        raise ValueError("access level must be read-only, read-write or admin")


NEEDED = {
    Action.PULL: Level.READ_ONLY,
    Action.PUSH: Level.READ_WRITE,
    Action.DELETE: Level.READ_WRITE,
    Action.ADMIN: Level.ADMIN,
}
"""The least level that allows each action (the original's table, reference dtr.md 4.3)."""


class Visibility(StrEnum):
    """Who may pull without a grant."""

    PUBLIC = "public"
    PRIVATE = "private"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a bearer token was issued for; it narrows what its account may do, never widens it."""

    repositories: dict[str, frozenset[Action]] = field(default_factory=dict)
    catalog: bool = False
    ids: dict[str, int] = field(default_factory=dict)
    """Which repository had each name when the token was issued; a new one has none yet."""

    def allows(self, name: str, action: Action) -> bool:
        """Tell whether the token may be used for `action` on the repository `name`."""
        return action in self.repositories.get(name, frozenset())

    def is_for(self, name: str, repository_id: int | None) -> bool:
        """Tell whether this is the repository that had the name when the token was issued."""
        bound = self.ids.get(name)
        return bound is None or bound == repository_id


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request speaks for.

    `account_id` is None for somebody without an account. `ceiling` is the level that the access
    token in use was limited to. `scope` is None where the credential is not narrowed to named
    repositories.
    """

    account_id: int | None = None
    name: str = ""
    is_admin: bool = False
    ceiling: Level = Level.ADMIN
    scope: Scope | None = None

    @property
    def is_anonymous(self) -> bool:
        """No account stands behind this request."""
        return self.account_id is None

    @property
    def acts_as_admin(self) -> bool:
        """An administrator whose credential is not limited below that."""
        return self.is_admin and self.ceiling is Level.ADMIN


ANONYMOUS = Principal()


@dataclass(frozen=True, slots=True)
class Credential:
    """What stands behind a request: a principal, and the access token that was used, if any.

    `epoch` is the account's when the credential was verified.
    """

    principal: Principal
    epoch: int = 0
    token_id: int | None = None


NOBODY = Credential(ANONYMOUS)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository as the gate and the handlers see it."""

    id: int
    name: RepositoryName
    namespace_id: int
    visibility: Visibility
    is_provisional: bool = False
    """A push made it and no manifest has come: another push makes it again, should it go."""

    @property
    def lasting_id(self) -> int | None:
        """Its id, if it is more than a name: a provisional one is whatever has its name."""
        return None if self.is_provisional else self.id


@dataclass(frozen=True, slots=True)
class Permit:
    """What the gate let pass: who, by which credential, to do what, in which repository.

    `name` is None where the route is for administrators and concerns no repository, and
    `repository_id` also where there was no repository of that name, or only a provisional one.
    """

    credential: Credential
    access: Access
    name: RepositoryName | None = None
    repository_id: int | None = None


def level_of(
    principal: Principal,
    *,
    owns_namespace: bool,
    visibility: Visibility | None,
    granted: Level = Level.NONE,
) -> Level:
    """Return the highest level that `principal` has on a repository.

    Deny by default: without ownership, administration, a grant or public visibility there is no
    access. `visibility` is None for a repository that does not exist yet. `granted` is the highest
    grant on the repository or its namespace. The credential's ceiling is applied last, and the
    token's scope is not: the gate asks it separately, for its answer differs.

    >>> level_of(ANONYMOUS, owns_namespace=False, visibility=Visibility.PUBLIC)
    <Level.READ_ONLY: 1>
    """
    level = granted
    if visibility is Visibility.PUBLIC:
        level = max(level, Level.READ_ONLY)
    if not principal.is_anonymous and (principal.is_admin or owns_namespace):
        level = Level.ADMIN
    return min(level, principal.ceiling)
