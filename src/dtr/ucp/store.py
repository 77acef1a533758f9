"""The port to what controllers keep: etcd's key-value model, and nothing of how it is spoken to.

Drivers: `ucp.etcd.EtcdStore` and, for tests, `testing.store.MemoryStore`; `testing.stores` is their
conformance suite.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from dtr.ucp.model import Document

D = TypeVar("D", bound=Document)

LONGEST_COMMIT: Final = 128
"""Most changes, and most conditions, of one commit: etcd's own default."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key and its value; revisions are etcd's."""

    key: str
    value: bytes
    created: int
    """The revision at which the key was created."""
    modified: int
    """The revision of its last change."""

    def document(self, kind: type[D]) -> D:
        """Return the value as a document."""
        return kind.model_validate_json(self.value)


@dataclass(frozen=True, slots=True)
class IsUnchanged:
    """A condition: the key's last change was at this revision; 0 means that there is no key."""

    key: str
    modified: int


@dataclass(frozen=True, slots=True)
class IsSame:
    """A condition: it is still the key that was created at this revision."""

    key: str
    created: int


Condition = IsUnchanged | IsSame


@dataclass(frozen=True, slots=True)
class Put:
    """Write a value; with `lease`, for as long as that lives."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key, or with `is_prefix` all keys that begin so."""

    key: str
    is_prefix: bool = False


Change = Put | Delete


def check_commit(changes: Sequence[Change], conditions: Sequence[Condition] = ()) -> None:
    """Refuse what no store takes.

    Raises:
        ValueError: more than `LONGEST_COMMIT`, or a key that is changed twice.

    """
    if max(len(changes), len(conditions)) > LONGEST_COMMIT:
        raise ValueError(f"a commit of more than {LONGEST_COMMIT} changes or conditions")
    written = [change.key for change in changes if isinstance(change, Put)]
    deleted = [change for change in changes if isinstance(change, Delete)]
    for key in written:
        gone = any(
            key.startswith(each.key) if each.is_prefix else key == each.key for each in deleted
        )
        if gone or written.count(key) > 1:
            raise ValueError(f"a commit that changes {key} twice")


class Store(Protocol):
    """Linearizable reads and writes.

    Raises (all methods):
        UnavailableError: no member with a majority behind it answered in time. Whether a write was
            done is then unknown.

    """

    async def get(self, key: str) -> Entry | None:
        """Return one key."""
        ...

    async def list(self, prefix: str) -> tuple[list[Entry], int]:
        """Return all keys that begin so, ordered, and the revision at which that was so."""
        ...

    async def commit(self, changes: Sequence[Change], conditions: Sequence[Condition] = ()) -> bool:
        """Make all changes if all conditions hold, else none; return whether they were made.

        Nor are they made when a lease that a `Put` names has ended. `check_commit` says what is no
        commit at all.
        """
        ...

    def watch(self, prefix: str, after: int) -> AsyncGenerator[int]:
        """Yield the revision of each change below `prefix` after that revision.

        One number may stand for several changes. It may end or raise `UnavailableError` at any
        time; whoever watches begins again.
        """
        ...

    async def grant(self, seconds: float) -> int:
        """Return a new lease, which ends unless it is kept alive at least that often."""
        ...

    async def keep_alive(self, lease: int) -> bool:
        """Begin the lease's time anew; return False where it has ended."""
        ...

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys; idempotent."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


@dataclass(frozen=True, slots=True)
class Leadership:
    """Proof of being the one controller that decides: the key that it holds, as fencing token."""

    key: str
    created: int

    @property
    def condition(self) -> Condition:
        """Holds as long as nobody else has become leader."""
        return IsSame(self.key, self.created)


class FencedStore:
    """A store whose every write fails once another controller leads."""

    def __init__(self, store: Store, leadership: Leadership) -> None:
        self._store = store
        self._leadership = leadership

    async def get(self, key: str) -> Entry | None:
        """Return one key."""
        return await self._store.get(key)

    async def list(self, prefix: str) -> tuple[list[Entry], int]:
        """Return all keys that begin so."""
        return await self._store.list(prefix)

    async def commit(self, changes: Sequence[Change], conditions: Sequence[Condition] = ()) -> bool:
        """Make all changes if all conditions hold and this controller still leads."""
        return await self._store.commit(changes, (*conditions, self._leadership.condition))


class Loop(Protocol):
    """What the leading controller does over and over: look, decide, act."""

    @property
    def name(self) -> str:
        """For the log."""
        ...

    async def cycle(self, store: FencedStore, now: float) -> str:
        """Do the next thing there is to do and return why, in one sentence.

        It may be interrupted anywhere and run twice at once: every write is fenced and conditional.

        Raises:
            UnavailableError: something did not answer; the next cycle tries again.

        """
        ...
