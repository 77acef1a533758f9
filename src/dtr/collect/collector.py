"""The collector: small transactions, each of which may be the last before a crash.

Manifests that nothing reaches go first, then the links of repositories to blobs that no manifest
needs, then the bytes of blobs that no repository links. Every step looks again inside its own
transaction, so a push that comes between is always seen. None looks at anything while a manifest
is without its edges, as an older version of the program may have left it:

    live --(no link left, in one transaction)--> condemned --(bytes deleted)--> no row
      ^                                             |
      '--------- a push stores it anew, under another key
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from dtr.collect import records
from dtr.database import Database, Reader, Writer
from dtr.registry import records as registry
from dtr.storage import BlobStore


@dataclass(frozen=True, slots=True)
class CollectSettings:
    """How collection goes about it."""

    untagged: bool = False
    grace_seconds: float = 86400
    untagged_grace_seconds: float = 7 * 86400
    batch: int = 50
    forget_empty: bool = True
    """Whether a repository that a push made goes when nothing came; another push makes it anew."""
    rest: float = 2.0
    """How long it rests after each batch, in times of what the batch took."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of what a dry run found, and why it goes, or stays."""

    reason: str
    count: int
    bytes: int
    is_kept: bool = False

    def __str__(self) -> str:
        """Return it as people read it."""
        return f"{self.reason}: {self.count} ({self.bytes / 1e6:.1f} MB)"


@dataclass(slots=True)
class Collected:
    """What a run took away, or with a dry run would take first."""

    manifests: int = 0
    links: int = 0
    blobs: int = 0
    bytes: int = 0
    uploads: int = 0
    digests: list[str] = field(default_factory=list)
    reasons: list[Share] = field(default_factory=list)
    """Only of a dry run: what goes for which reason, and what stays."""

    def __str__(self) -> str:
        """Return the counts as people read them."""
        return (
            f"{self.manifests} manifests, {self.links} blobs of repositories, "
            f"{self.blobs} blobs from disk ({self.bytes / 1e6:.1f} MB), {self.uploads} uploads"
        )


Step = Callable[[Collected], Awaitable[bool]]


class Collector:
    """Collects until nothing is due. Any number may run at once; each step is safe alone."""

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        settings: CollectSettings,
        *,
        clock: Callable[[], float] = time.time,
        pause: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Collect from `store`; `pause` is awaited before each batch."""
        self._pause = pause
        self._database = database
        self._store = store
        self._settings = settings
        self._clock = clock

    async def run(self, progress: Callable[[Collected], None] | None = None) -> Collected:
        """Collect everything that is due now; tell `progress` after every batch."""
        done = Collected()
        report = progress or (lambda _done: None)
        for step in (self._uploads, self._manifests, self._links, self._blobs):
            while await self._with_rest(step, done):
                report(done)
        report(done)
        return done

    async def plan(self) -> Collected:
        """Return what `run` would take away now; nothing is taken away.

        The edges that an older version of the program did not make are made first.
        """
        while await self._database.write(registry.make_edges):
            pass
        return await self._database.read(_plan, self._clock(), self._settings)

    async def _with_rest(self, step: Step, done: Collected) -> bool:
        """Do a step, then leave the machine and the database to requests for as long again."""
        if self._pause is not None:
            await self._pause()
        begun = time.perf_counter()
        is_more = await step(done)
        if is_more:
            await asyncio.sleep((time.perf_counter() - begun) * self._settings.rest)
        return is_more

    async def _uploads(self, done: Collected) -> bool:
        """Forget sessions that nobody continued, then what they staged."""
        database, now = self._database, self._clock()
        expired = await database.read(registry.expired_uploads, now, self._settings.batch)
        for upload_id in expired:
            progress = await database.write(
                records.remove_expired_upload,
                upload_id,
                now,
                forget_empty=self._settings.forget_empty,
            )
            if progress is not None:
                await self._store.discard(upload_id, progress)
                done.uploads += 1
        return len(expired) == self._settings.batch

    async def _manifests(self, done: Collected) -> bool:
        if not self._settings.untagged:
            return False
        looked_at, removed = await self._database.write(
            _collect_manifests, self._clock(), self._settings
        )
        done.manifests += removed
        return looked_at == self._settings.batch

    async def _links(self, done: Collected) -> bool:
        looked_at, removed = await self._database.write(
            _collect_links,
            self._clock(),
            self._settings.batch,
            forget_empty=self._settings.forget_empty,
        )
        done.links += removed
        return looked_at == self._settings.batch

    async def _blobs(self, done: Collected) -> bool:
        """Delete marked bytes, then their rows: a crash between leaves only work to do again."""
        batch = self._settings.batch
        condemned = await self._database.read(records.condemned_blobs, batch)
        for blob in condemned:
            await self._store.delete(blob.storage_key)
            done.blobs += 1
            done.bytes += blob.size
            done.digests.append(blob.digest)
        if condemned:
            await self._database.write(records.remove_condemned, condemned)
        return len(condemned) == batch


def _collect_manifests(writer: Writer, now: float, settings: CollectSettings) -> tuple[int, int]:
    """Delete a batch of manifests that nothing reaches; put aside those that something does."""
    if registry.make_edges(writer):
        return settings.batch, 0
    due = records.due_manifests(writer, now, settings.batch)
    # First, since what is deleted may have been all that reached one of these.
    records.put_aside_manifests(writer, [row for row, is_needed in due if is_needed])
    unneeded = [row for row, is_needed in due if not is_needed]
    for manifest_id in unneeded:
        registry.remove_manifest(
            writer,
            manifest_id,
            # A client may have been told a moment ago that these are here: its push has the grace.
            blobs_review_at=now + settings.grace_seconds,
            manifests_review_at=now + settings.untagged_grace_seconds,
        )
    return len(due), len(unneeded)


def _collect_links(
    writer: Writer, now: float, batch: int, *, forget_empty: bool = False
) -> tuple[int, int]:
    """Remove a batch of links that no manifest needs, and mark blobs that have none left."""
    if registry.make_edges(writer):
        return batch, 0
    due = records.due_links(writer, now, batch)
    unneeded = [link for link, is_needed in due if not is_needed]
    records.put_aside_links(writer, [link for link, is_needed in due if is_needed])
    records.remove_links(writer, unneeded)
    if forget_empty:
        for repository_id in sorted({link.repository_id for link in unneeded}):
            registry.forget_if_empty(writer, repository_id)
    return len(due), len(unneeded)


def _plan(reader: Reader, now: float, settings: CollectSettings) -> Collected:
    due = records.due_links(reader, now, 1_000_000)
    unneeded = [link for link, is_needed in due if not is_needed]
    marked = records.condemned_blobs(reader, 1_000_000)
    count = len(records.unneeded_manifests(reader, now, 1_000_000)) if settings.untagged else 0
    last = records.last_links(reader, unneeded)
    return Collected(
        manifests=count,
        links=len(unneeded),
        blobs=len(marked) + len(last),
        bytes=_size(marked) + _size(last),
        uploads=len(registry.expired_uploads(reader, now, 1_000_000)),
        digests=[blob.digest for blob in (*marked, *last)],
        reasons=[
            Share("blobs that nothing refers to", len(unneeded), _size(last)),
            Share("blobs of what was deleted", len(marked), _size(marked)),
            *_untagged(reader, count, settings),
        ],
    )


def _untagged(reader: Reader, due: int, settings: CollectSettings) -> list[Share]:
    """Return what becomes of manifests that no tag leads to; their blobs go after them."""
    found = registry.untagged_by_repository(reader).values()
    count, size = sum(each.manifests for each in found), sum(each.bytes for each in found)
    if not settings.untagged:
        return [Share('untagged manifests (collect.untagged is "keep")', count, size, is_kept=True)]
    reason = f"untagged manifests, {due} of them now, the others after their grace"
    return [Share(reason, count, size)]


def _size(found: Sequence[registry.Blob]) -> int:
    return sum(blob.size for blob in found)
