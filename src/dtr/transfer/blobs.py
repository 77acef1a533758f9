"""Copy a registry's blobs to another storage, under the keys that the metadata know them by.

Keys stay, so the metadata need no change: a registry that has been copied serves from either. What
is at the target with its size is not copied again, so a copy that was cut off goes on, and one that
is run again brings over what was pushed meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from dtr.collect import records
from dtr.database import Database
from dtr.model.errors import ContentDamagedError, RegistryError, UnavailableError
from dtr.registry.records import LIVE, Blob
from dtr.storage import BlobStore

_PAGE = 200
_TRIES = 5
_PAUSE_SECONDS = 1.0


@dataclass(slots=True)
class BlobsCopied:
    """What a copy has done, or with a dry run would do."""

    copied: int = 0
    copied_bytes: int = 0
    present: int = 0
    present_bytes: int = 0
    damaged: list[str] = field(default_factory=list)


class BlobCopy:
    """Copies `at_once` blobs at a time; may run while the registry serves."""

    def __init__(
        self,
        database: Database,
        source: BlobStore,
        target: BlobStore,
        *,
        at_once: int = 4,
        is_dry_run: bool = False,
    ) -> None:
        self._database = database
        self._source = source
        self._target = target
        self._at_once = at_once
        self._is_dry_run = is_dry_run
        self._done = BlobsCopied()

    async def total(self) -> tuple[int, int]:
        """Return how many blobs there are, and how many bytes they have."""
        return await self._database.read(records.live_blobs)

    async def run(self, progress: Callable[[int], None] | None = None) -> BlobsCopied:
        """Copy every blob that the metadata know; tell `progress` of bytes that need no more.

        Raises:
            UnavailableError: one of the two does not answer; what was copied stays.

        """
        report = progress or (lambda _bytes: None)
        last = ""
        while page := await self._database.read(records.blobs_after, last, _PAGE):
            blobs = iter([blob for blob, state in page if state == LIVE])
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._at_once):
                        group.create_task(self._bring_all(blobs, report))
            except* RegistryError as errors:
                raise errors.exceptions[0] from None
            last = page[-1][0].digest
        return self._done

    async def _bring_all(self, blobs: Iterator[Blob], report: Callable[[int], None]) -> None:
        for blob in blobs:
            await self._bring(blob)
            report(blob.size)

    async def _bring(self, blob: Blob) -> None:
        """Have a blob at the target, or note that it cannot be."""
        if await self._target.size(blob.storage_key) == blob.size:
            self._done.present += 1
            self._done.present_bytes += blob.size
            return
        if not self._is_dry_run and not await self._copy(blob):
            # Collection may have been first.
            if await self._database.read(records.is_live, blob):
                self._done.damaged.append(str(blob.digest))
            return
        self._done.copied += 1
        self._done.copied_bytes += blob.size

    async def _copy(self, blob: Blob) -> bool:
        """Copy a blob; return False where the source does not have it whole."""
        for tried in range(1, _TRIES + 1):
            watched = _Watched(self._source, blob)
            try:
                await self._target.adopt(blob.storage_key, watched.stream(), blob.size, blob.digest)
            except ContentDamagedError:
                return False
            except UnavailableError:
                # A target may say no more of a stream that failed than that it failed.
                if watched.is_damaged:
                    return False
                if tried == _TRIES:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS * tried)
            else:
                return True
        return False


class _Watched:
    """The bytes of a blob, as the source has them; the target verifies their digest."""

    def __init__(self, source: BlobStore, blob: Blob) -> None:
        self._source = source
        self._blob = blob
        self.is_damaged = False

    async def stream(self) -> AsyncIterator[bytes]:
        """Stream the blob.

        Raises:
            ContentDamagedError: the source does not have it whole.

        """
        try:
            async for chunk in self._source.read(self._blob.storage_key, stop=self._blob.size):
                yield chunk
        except ContentDamagedError:
            self.is_damaged = True
            raise
