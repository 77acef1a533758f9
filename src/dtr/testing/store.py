"""A control plane's store in memory, for tests: etcd's semantics without etcd.

Every room can drive its loops and routes with it; `testing.stores` holds it to what etcd does.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dtr.model.errors import UnavailableError
from dtr.ucp.store import Change, Condition, Delete, Entry, IsUnchanged, Put, Store, check_commit

_LEAST_LEASE_SECONDS: Final = 2  # as etcd has it with its usual election timeout
_LOOK_SECONDS: Final = 0.02  # how often a watch asks the clock whether a lease has ended


@dataclass(slots=True)
class _Lease:
    seconds: float
    ends_at: float


class MemoryStore:
    """Keys, revisions, leases and watches of one etcd that is always there, unless told.

    `is_available = False` makes every call fail before it does anything; `loses_answers = True`
    makes commits fail after they were done. Any number of controllers may share one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is what leases end by, in seconds."""
        self.is_available = True
        self.loses_answers = False
        self.revision = 1
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._lease_of: dict[str, int] = {}
        self._leases: dict[int, _Lease] = {}
        self._history: list[tuple[int, frozenset[str]]] = []
        self._last_lease = 0

    async def get(self, key: str) -> Entry | None:
        """Return one key."""
        await self._begin()
        return self._entries.get(key)

    async def list(self, prefix: str) -> tuple[list[Entry], int]:
        """Return all keys that begin so, ordered, and the revision at which that was so."""
        await self._begin()
        return [self._entries[key] for key in self._below(prefix)], self.revision

    async def commit(self, changes: Sequence[Change], conditions: Sequence[Condition] = ()) -> bool:
        """Make all changes if all conditions hold and no lease has ended, else none."""
        check_commit(changes, conditions)
        await self._begin()
        leases = {change.lease for change in changes if isinstance(change, Put)} - {0}
        is_made = all(map(self._holds, conditions)) and leases <= self._leases.keys()
        if is_made:
            self._make(changes)
        if self.loses_answers:
            raise UnavailableError("the answer of the control plane's store was lost")
        return is_made

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[int]:
        """Yield the revision of each change below `prefix` after that revision."""
        seen = 0
        while True:
            await self._begin()
            while seen < len(self._history):
                revision, changed = self._history[seen]
                seen += 1
                if revision > after and any(key.startswith(prefix) for key in changed):
                    yield revision
            await asyncio.sleep(_LOOK_SECONDS)

    async def grant(self, seconds: float) -> int:
        """Return a new lease of whole seconds, at least 2."""
        await self._begin()
        self._last_lease += 1
        kept = max(math.ceil(seconds), _LEAST_LEASE_SECONDS)
        self._leases[self._last_lease] = _Lease(kept, self._clock() + kept)
        return self._last_lease

    async def keep_alive(self, lease: int) -> bool:
        """Begin the lease's time anew; return False where it has ended."""
        await self._begin()
        found = self._leases.get(lease)
        if found is None:
            return False
        found.ends_at = self._clock() + found.seconds
        return True

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys; idempotent."""
        await self._begin()
        self._end(lease)

    async def close(self) -> None:
        """Do nothing: what is in memory stays."""

    async def _begin(self) -> None:
        await asyncio.sleep(0)  # as with a real one, others get in between
        if not self.is_available:
            raise UnavailableError("the control plane's store is not there")
        now = self._clock()
        for lease in [each for each, found in self._leases.items() if found.ends_at <= now]:
            self._end(lease)

    def _end(self, lease: int) -> None:
        self._leases.pop(lease, None)
        self._make([Delete(key) for key, holder in self._lease_of.items() if holder == lease])

    def _holds(self, condition: Condition) -> bool:
        found = self._entries.get(condition.key)
        if isinstance(condition, IsUnchanged):
            return (found.modified if found else 0) == condition.modified
        return (found.created if found else 0) == condition.created

    def _make(self, changes: Sequence[Change]) -> None:
        revision = self.revision + 1
        changed: set[str] = set()
        for change in changes:
            if isinstance(change, Put):
                self._put(change, revision)
                changed.add(change.key)
                continue
            for key in self._below(change.key) if change.is_prefix else [change.key]:
                if self._entries.pop(key, None) is not None:
                    changed.add(key)
                self._lease_of.pop(key, None)
        if changed:
            self.revision = revision
            self._history.append((revision, frozenset(changed)))

    def _put(self, change: Put, revision: int) -> None:
        before = self._entries.get(change.key)
        if before is None:
            self._entries[change.key] = Entry(change.key, change.value, revision, revision)
        else:
            self._entries[change.key] = replace(before, value=change.value, modified=revision)
        self._lease_of.pop(change.key, None)
        if change.lease:
            self._lease_of[change.key] = change.lease

    def _below(self, prefix: str) -> Sequence[str]:
        return sorted(key for key in self._entries if key.startswith(prefix))


if TYPE_CHECKING:
    _: type[Store] = MemoryStore
