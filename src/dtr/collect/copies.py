"""Copies of blobs on replicas' own disks: each replica fetches by itself what it should hold.

Nobody hands out work. Who should hold a blob follows from its key, the members and who holds it
already (`placement.is_wanted`), so every replica comes to the same answer, and what is done twice
where two of them saw different members is one copy too many. A replica that has joined is filled in
this way while it serves, one that leaves is emptied because its copies do not count any more, and
what a push left on just as many replicas as it had to gets its further copies.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from dtr.database import Database
from dtr.model.errors import RegistryError, StorageFullError, UnavailableError
from dtr.model.members import Members
from dtr.registry.records import holders
from dtr.registry.records.holders import Placed
from dtr.storage.replicated import ReplicatedBlobStore, placement

_LOG = structlog.get_logger()
_PAGE = 500
_AT_ONCE = 4
_LOOK_SECONDS = 2.0
# Rows that are being committed meanwhile come before those that were seen already.
_OVERLAP = 200
_MOST_WAITING = 10_000
_RETRY_SECONDS = 15.0


@dataclass(slots=True)
class Copied:
    """What was done so far."""

    looked_at: int = 0
    copied: int = 0
    bytes: int = 0
    waiting: int = 0
    """Blobs that should be here, and nobody who answers has them."""
    is_full: bool = False

    def __str__(self) -> str:
        """Return it as people read it."""
        parts = [f"{self.copied} copied ({self.bytes / 1e6:.1f} MB), {self.looked_at} looked at"]
        if self.waiting:
            parts.append(f"{self.waiting} wait for a replica that has them")
        if self.is_full:
            parts.append("this disk is full")
        return ", ".join(parts)


class Copier:
    """Fetches what this replica should hold and does not; may run beside everything else."""

    def __init__(
        self,
        database: Database,
        store: ReplicatedBlobStore,
        *,
        copies: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._store = store
        self._copies = copies
        self._clock = clock
        self._waiting: dict[str, float] = {}
        self.done = Copied()

    async def run(
        self, seconds: float, progress: Callable[[Copied], None] = lambda _done: None
    ) -> Copied:
        """Look at every blob once, then for `seconds` at what is placed or changes its place."""
        until = time.monotonic() + seconds
        members, after = self._store.members, 0
        await self._forget_others(members)
        while True:
            if self._store.members != members:
                members, after = self._store.members, 0
                await self._forget_others(members)
            reached = await self.turn(after)
            progress(self.done)
            if reached > after:
                after = reached
                continue
            if time.monotonic() >= until:
                return self.done
            await asyncio.sleep(_LOOK_SECONDS)
            await self._retry()
            after = max(0, after - _OVERLAP)

    async def turn(self, after: int) -> int:
        """Look at a page of what was placed after a row; return the row that it ends with."""
        reached, page = await self._database.read(holders.placed_after, after, _PAGE)
        await self._take([each for each in page if self._is_wanted(each)])
        if reached > after:
            self.done.looked_at += len(page)
        return reached

    def _is_wanted(self, placed: Placed) -> bool:
        if self._waiting.get(placed.blob.storage_key, 0) > time.monotonic():
            return False
        return placement.is_wanted(
            placed.blob.storage_key, placed.holders, self._store.members, self._copies
        )

    async def _retry(self) -> None:
        now = time.monotonic()
        due = [key for key, at in self._waiting.items() if at <= now][:_PAGE]
        if due:
            found = await self._database.read(holders.placed, due)
            for key in due:
                del self._waiting[key]
            await self._take([each for each in found if self._is_wanted(each)])
        self.done.waiting = len(self._waiting)

    async def _take(self, wanted: list[Placed]) -> None:
        left = iter(wanted)

        async def take_all() -> None:
            for placed in left:
                await self._take_one(placed)

        if not wanted:
            return
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_AT_ONCE, len(wanted))):
                    group.create_task(take_all())
        except* RegistryError as errors:
            raise errors.exceptions[0] from None

    async def _take_one(self, placed: Placed) -> None:
        """Have a blob here, and then the metadata know it."""
        blob, store = placed.blob, self._store
        try:
            # A file that is here was verified when it was made; only its row was lost.
            if await store.local.size(blob.storage_key) != blob.size:
                await store.fetch(blob.storage_key, blob.size, blob.digest)
                self.done.copied += 1
                self.done.bytes += blob.size
        except StorageFullError:
            self.done.is_full = True
            self._wait(blob.storage_key)
            return
        except RegistryError as error:
            if not isinstance(error, UnavailableError):
                _LOG.warning("no copy can be had", key=blob.storage_key, error=str(error))
            self._wait(blob.storage_key)
            return
        self.done.is_full = False
        own = store.members.own_id
        if not await self._database.write(holders.add_holder, blob, own, self._clock()):
            await store.local.delete(blob.storage_key)  # collected while it was copied

    def _wait(self, key: str) -> None:
        if len(self._waiting) < _MOST_WAITING:
            self._waiting[key] = time.monotonic() + _RETRY_SECONDS
        self.done.waiting = len(self._waiting)

    async def _forget_others(self, members: Members) -> None:
        """Forget what replicas held that are no members any more: their disks are gone."""
        if members.own is None:
            return
        ids = [each.id for each in members.members]
        forgotten = await self._database.write(holders.forget_other_replicas, ids)
        if forgotten:
            _LOG.info("copies of former replicas forgotten", copies=forgotten)


async def count_placements(
    database: Database, store: ReplicatedBlobStore, copies: int
) -> dict[str, int | list[str]]:
    """Return this replica's storage in numbers, by the fields of `cluster.model.StorageReport`."""
    members = store.members
    serving = [each.id for each in placement.serving(members)]
    found = await database.read(
        holders.count_placements,
        members.own_id,
        serving,
        needed=min(placement.needed(members), len(serving)),
        target=placement.target(len(serving), copies),
    )
    capacity, free = store.local.capacity()
    return {
        "blobs": found.blobs,
        "bytes": found.bytes,
        "under_copied": found.under_copied,
        "counted_replicas": serving,
        "missing_here": found.missing_here,
        "capacity_bytes": capacity,
        "free_bytes": free,
    }
