"""Scrub: a replica reads what it holds, slowly, and replaces what is not right by a good copy.

First what is on the disk and what the metadata say of it are brought together: a copy that they do
not know is noted, one that is not there is forgotten, so that another replica makes it anew.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from dtr.collect import records
from dtr.database import Database
from dtr.model.digest import Digest
from dtr.model.errors import RegistryError
from dtr.registry.records import Blob, holders
from dtr.storage import StoredBlob
from dtr.storage.replicated import ReplicatedBlobStore

_LOG = structlog.get_logger()
_PAGE = 500
_BATCH = 20
# What was written a moment ago may not be noted yet by whoever wrote it.
_YOUNG_SECONDS = 600
_ABANDONED_SECONDS = 86400


@dataclass(slots=True)
class Scrubbed:
    """What was done so far."""

    verified: int = 0
    repaired: int = 0
    lost: int = 0
    """Damaged here, and no other replica that answers had a good copy."""
    noted: int = 0
    forgotten: int = 0

    def __str__(self) -> str:
        """Return it as people read it."""
        return (
            f"{self.verified} verified, {self.repaired} repaired, {self.lost} damaged for which no "
            f"good copy was found, {self.noted} copies noted, {self.forgotten} forgotten"
        )


class Scrubber:
    """Goes over this replica's own disk; `rest` is how long it rests, in times of its work."""

    def __init__(
        self,
        database: Database,
        store: ReplicatedBlobStore,
        *,
        interval_seconds: float,
        rest: float = 4.0,
        young_seconds: float = _YOUNG_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._store = store
        self._interval_seconds = interval_seconds
        self._rest = rest
        self._young_seconds = young_seconds
        self._clock = clock
        self.done = Scrubbed()

    async def run(
        self,
        progress: Callable[[Scrubbed], None] = lambda _done: None,
        tell: Callable[[str], None] = lambda _sentence: None,
    ) -> Scrubbed:
        """Bring disk and metadata together, then verify what is due; `tell` of what was damaged."""
        await self._store.local.remove_partial(self._clock() - _ABANDONED_SECONDS)
        await self._note_unknown()
        await self._forget_missing()
        before = self._clock() - self._interval_seconds
        while due := await self._due(before):
            right = [blob.storage_key for blob in due if await self._with_rest(blob, tell)]
            await self._database.write(
                holders.note_verified, right, self._store.members.own_id, self._clock()
            )
            self.done.verified += len(right)
            progress(self.done)
        progress(self.done)
        return self.done

    async def _due(self, before: float) -> list[Blob]:
        own = self._store.members.own_id
        return await self._database.read(holders.held_since, own, before, _BATCH)

    async def _with_rest(self, blob: Blob, tell: Callable[[str], None]) -> bool:
        """Verify a blob, then leave the disk to others; tell whether it is right now."""
        begun = time.perf_counter()
        is_right = await self._is_right(blob) or await self._repair(blob, tell)
        if not is_right:
            own = self._store.members.own_id
            await self._database.write(holders.remove_holder, [blob.storage_key], own)
        await asyncio.sleep((time.perf_counter() - begun) * self._rest)
        return is_right

    async def _is_right(self, blob: Blob) -> bool:
        hasher, size = blob.digest.algorithm.hasher(), 0
        try:
            async for chunk in self._store.local.read(blob.storage_key):
                await asyncio.to_thread(hasher.update, chunk)
                size += len(chunk)
        except RegistryError:
            return False
        found = Digest(f"{blob.digest.algorithm}:{hasher.hexdigest()}")
        return (found, size) == (blob.digest, blob.size)

    async def _repair(self, blob: Blob, tell: Callable[[str], None]) -> bool:
        """Replace a damaged copy; where nobody has a good one, keep it apart for people to look at.

        It is fetched again, as soon as somebody who has it answers.
        """
        if not await self._database.read(records.is_live, blob):
            return False
        try:
            source = await self._store.fetch(blob.storage_key, blob.size, blob.digest)
        except RegistryError as error:
            _LOG.error("a copy is damaged", key=blob.storage_key, error=str(error))
            tell(f"{blob.storage_key} is damaged here, and no good copy was found: {error}")
            await self._store.local.put_aside(blob.storage_key)
            self.done.lost += 1
            return False
        _LOG.warning("a damaged copy was replaced", key=blob.storage_key, source=source)
        tell(f"{blob.storage_key} was damaged here, and replaced by the copy of {source}")
        self.done.repaired += 1
        return True

    async def _note_unknown(self) -> None:
        """Note copies that are on the disk, whole, and that the metadata do not know of."""
        page: list[StoredBlob] = []
        async for stored in self._store.local.walk():
            if self._clock() - stored.modified_at >= self._young_seconds:
                page.append(stored)
            if len(page) == _PAGE:
                await self._note(page)
                page = []
        await self._note(page)

    async def _note(self, page: list[StoredBlob]) -> None:
        sizes = {stored.key: stored.size for stored in page}
        own = self._store.members.own_id
        for placed in await self._database.read(holders.placed, sorted(sizes)):
            blob = placed.blob
            if own in placed.holders or sizes[blob.storage_key] != blob.size:
                continue
            if await self._is_right(blob):
                await self._database.write(holders.add_holder, blob, own, self._clock())
                self.done.noted += 1

    async def _forget_missing(self) -> None:
        """Forget copies that are not on the disk."""
        own, after = self._store.members.own_id, ""
        while keys := await self._database.read(holders.held_keys, own, after, _PAGE):
            missing = [key for key in keys if await self._store.local.size(key) is None]
            if missing:
                await self._database.write(holders.remove_holder, missing, own)
                self.done.forgotten += len(missing)
                _LOG.warning("copies are missing on this disk", count=len(missing))
            after = keys[-1]
