"""Count pulls in memory and write them down in batches: no pull writes a row."""

import asyncio
from collections import defaultdict

import structlog

from dtr.database import Database
from dtr.model.errors import RegistryError
from dtr.registry.records.pulls import Pulls, add_pulls

_LOG = structlog.get_logger()
_WRITE_SECONDS = 10.0


class PullCounter:
    """What one process has counted since it last wrote it down.

    A process that is killed loses the pulls of up to ten seconds; one that ends writes them.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._repositories: defaultdict[int, Pulls] = defaultdict(Pulls)
        self._manifests: defaultdict[int, Pulls] = defaultdict(Pulls)

    def count(self, repository_id: int, manifest_id: int, now: float) -> None:
        """Count a pull of a manifest."""
        self._repositories[repository_id].add(now)
        self._manifests[manifest_id].add(now)

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
        if not self._manifests:
            return
        repositories, self._repositories = self._repositories, defaultdict(Pulls)
        manifests, self._manifests = self._manifests, defaultdict(Pulls)
        try:
            await self._database.write(add_pulls, repositories, manifests)
        except BaseException:
            for counted, kept in (
                (repositories, self._repositories),
                (manifests, self._manifests),
            ):
                for id_, pulls in counted.items():
                    kept[id_].merge(pulls)
            raise
