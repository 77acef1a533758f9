"""Count pulls in memory and write them down in batches: no pull writes a row."""

import asyncio
import uuid
from collections import defaultdict
from dataclasses import dataclass, field

import structlog

from dtr.database import Database
from dtr.model.errors import RegistryError
from dtr.registry.records.pulls import Pulls, add_pulls

_LOG = structlog.get_logger()
_WRITE_SECONDS = 10.0


def _none() -> defaultdict[int, Pulls]:
    return defaultdict(Pulls)


@dataclass(slots=True)
class _Batch:
    """Pulls that are written together; by its id they are written once."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    repositories: defaultdict[int, Pulls] = field(default_factory=_none)
    manifests: defaultdict[int, Pulls] = field(default_factory=_none)


class PullCounter:
    """What one process has counted since it last wrote it down.

    A process that is killed loses the pulls of up to ten seconds; one that ends writes them. A
    batch is written until that is known to have succeeded, and counts once however often it was.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counting = _Batch()
        self._written: _Batch | None = None
        self._turn = asyncio.Lock()

    def count(self, repository_id: int, manifest_id: int, now: float) -> None:
        """Count a pull of a manifest."""
        self._counting.repositories[repository_id].add(now)
        self._counting.manifests[manifest_id].add(now)

    async def run(self) -> None:
        """Write again and again until cancelled."""
        while True:
            await asyncio.sleep(_WRITE_SECONDS)
            try:
                await self.write()
            except RegistryError as error:
                _LOG.warning("pulls not recorded yet", error=str(error))

    async def write(self) -> None:
        """Write what was counted; what cannot be written is kept for the next time."""
        async with self._turn:
            while batch := self._next():
                await self._database.write(add_pulls, batch.id, batch.repositories, batch.manifests)
                self._written = None

    def _next(self) -> _Batch | None:
        """Return the batch whose fate is not known, else what was counted since."""
        if self._written is None and self._counting.manifests:
            self._written, self._counting = self._counting, _Batch()
        return self._written
