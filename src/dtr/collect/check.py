"""`dtr fsck`: compare metadata and storage both ways, and repair what can be (design 6).

Damage is what a client would notice: bytes that are missing or wrong. Garbage is what only the disk
notices: bytes that a crash left behind. Neither is ever repaired by guessing: damaged content is
forgotten, so that the next push of it, which the client then sees as missing, brings it back.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from dtr.collect import records
from dtr.database import Database
from dtr.model.away import away_from_loop
from dtr.model.digest import Digest
from dtr.model.errors import ContentDamagedError
from dtr.registry import records as registry
from dtr.storage import BlobStore, StoredBlob

_PAGE = 500
_YOUNG_SECONDS = 86400  # no upload takes so long between storage and metadata, no clock errs so


class Severity(StrEnum):
    """How bad a finding is."""

    DAMAGE = "damage"
    GARBAGE = "garbage"
    NOTE = "note"


def summary_of(counts: Mapping[Severity, int]) -> str:
    """Say how much was found of each severity; damage is what matters, so it is always said.

    >>> summary_of({Severity.DAMAGE: 0, Severity.GARBAGE: 0, Severity.NOTE: 2})
    'found: no damage, 2 notes'
    """
    damaged, garbage, notes = (counts[kind] for kind in Severity)
    if not damaged + garbage + notes:
        return "no problems found"
    parts = [f"{damaged} damaged" if damaged else "no damage"]
    if garbage:
        parts.append(f"{garbage} unused")
    if notes:
        parts.append(f"{notes} note{'' if notes == 1 else 's'}")
    return f"found: {', '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    severity: Severity
    what: str
    subject: str
    repaired: bool = False


class Checker:
    """Looks at everything once; may run while the registry serves."""

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        *,
        repair: bool = False,
        verify: bool = False,
        young_seconds: float = _YOUNG_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._store = store
        self._repair = repair
        self._verify = verify
        self._young_seconds = young_seconds
        self._clock = clock

    async def findings(self) -> AsyncIterator[Finding]:
        """Yield what is found, as it is found."""
        async for finding in self._check_blobs():
            yield finding
        async for finding in self._check_manifests():
            yield finding
        async for finding in self.garbage():
            yield finding

    async def garbage(self) -> AsyncIterator[Finding]:
        """Yield bytes that no metadata knows, older than a day: no upload is still on its way."""
        page: list[StoredBlob] = []
        async for stored in self._store.walk():
            if self._clock() - stored.modified_at >= self._young_seconds:
                page.append(stored)
            if len(page) == _PAGE:
                for finding in await self._orphans(page):
                    yield finding
                page = []
        for finding in await self._orphans(page):
            yield finding
        async for finding in self._staged():
            yield finding

    async def _check_blobs(self) -> AsyncIterator[Finding]:
        last = ""
        while page := await self._database.read(records.blobs_after, last, _PAGE):
            for blob, state in page:
                problem = await self._problem(blob) if state == registry.LIVE else None
                finding = problem and await self._damaged(blob, problem)
                if finding:
                    yield finding
            last = page[-1][0].digest

    async def _problem(self, blob: registry.Blob) -> str | None:
        size = await self._store.size(blob.storage_key)
        if size is None:
            return "stored bytes are missing"
        if size != blob.size:
            return f"stored bytes are {size}, the metadata says {blob.size}"
        if self._verify and await self._digest(blob) != blob.digest:
            return "stored bytes have another digest"
        return None

    async def _digest(self, blob: registry.Blob) -> Digest:
        hasher = blob.digest.algorithm.hasher()
        try:
            async for chunk in self._store.read(blob.storage_key):
                hasher.update(chunk)
        except ContentDamagedError:
            return Digest("")
        return Digest(f"{blob.digest.algorithm}:{hasher.hexdigest()}")

    async def _damaged(self, blob: registry.Blob, problem: str) -> Finding | None:
        """Return what is wrong with a blob, or None if it was collected while we looked.

        Its bytes may then be on their way out, or pushed again under another key. Bytes go after
        their row is condemned, and no key lives twice: a row that is still the same is damaged.
        """
        if not await self._database.read(records.is_live, blob):
            return None
        names = await self._database.read(records.repositories_with, blob.digest)
        where = f"{blob.digest} ({', '.join(names[:5]) or 'no repository'})"
        if self._repair:
            if await self._store.heal(blob.storage_key, blob.size, blob.digest):
                healed = f"{problem}; a good copy has taken their place"
                return Finding(Severity.DAMAGE, healed, where, self._repair)
            if not await self._database.write(records.remove_blob, blob):
                return None
            await self._store.delete(blob.storage_key)
        return Finding(Severity.DAMAGE, problem, where, self._repair)

    async def _check_manifests(self) -> AsyncIterator[Finding]:
        last = 0
        while page := await self._database.read(records.manifests_after, last, _PAGE):
            for row in page:
                where = f"{row.name}@{row.digest}"
                digest = Digest(row.digest)
                if Digest.of(row.payload, digest.algorithm) != digest:
                    yield Finding(Severity.DAMAGE, "manifest has another digest", where)
                    continue
                for finding in await self._lacking(row, where):
                    yield finding
            last = page[-1].id

    async def _lacking(self, row: Any, where: str) -> list[Finding]:
        """Return what a manifest lacks: an edge that protects nothing, or what it refers to."""
        read = partial(registry.references_of, row.payload, row.media_type)
        manifest = await away_from_loop(len(row.payload), read)
        found = await self._database.read(records.lacking, row.id, manifest)
        if found.edges and self._repair:
            await self._database.write(registry.remake_edges, row.id)
        edges = [
            Finding(
                # Edges that an older program did not make are made before anything is collected.
                Severity.DAMAGE if row.edge_rules else Severity.NOTE,
                f"refers to {digest}, which collection does not know",
                where,
                self._repair,
            )
            for digest in found.edges
        ]
        return edges + [
            Finding(Severity.NOTE, f"refers to {digest}, which is not here", where)
            for digest in found.content
        ]

    async def _orphans(self, page: list[StoredBlob]) -> list[Finding]:
        if not page:
            return []
        # Sessions first: one that commits meanwhile is then found by its key.
        uploads = [stored.upload_id for stored in page if stored.upload_id is not None]
        sessions = await self._database.read(records.known_uploads, uploads)
        keys = [stored.key for stored in page]
        known = await self._database.read(records.known_keys, keys)
        found = []
        for stored in page:
            if stored.key in known or stored.upload_id in sessions:
                continue
            if self._repair:
                await self._store.delete(stored.key)
            found.append(
                Finding(Severity.GARBAGE, "bytes that nothing knows", stored.key, self._repair)
            )
        return found

    async def _staged(self) -> AsyncIterator[Finding]:
        old = [
            stored.key
            async for stored in self._store.walk_uploads()
            if self._clock() - stored.modified_at >= self._young_seconds
        ]
        for start in range(0, len(old), _PAGE):
            page = old[start : start + _PAGE]
            known = await self._database.read(records.known_uploads, page)
            for upload_id in page:
                if upload_id in known:
                    continue
                if self._repair:
                    await self._store.discard(upload_id)
                yield Finding(
                    Severity.GARBAGE, "staged bytes without a session", upload_id, self._repair
                )
