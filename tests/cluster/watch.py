"""What clients and databases go through while something happens to the cluster."""

import random
import time
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from tests.cluster.cluster import PASSWORD, USERNAME, RunningCluster
from tests.cluster.reads import Reader, Reads
from tests.cluster.writes import History, Prober, ask
from tests.outages.docker import Docker, Record
from tests.outages.images import Image, random_image
from tests.outages.load import Load
from tests.support.processes import wait_until

ACCOUNT = (USERNAME, PASSWORD)
_REPOSITORY = f"{USERNAME}/always-read"
_TABLE = "create table if not exists public.test_writes (server text, number int)"
_ROWS = "select server, number from public.test_writes"
_BEGUN = "truncate public.test_writes"
_COPIES = 3
"""Of each blob there are so many in the end, by default."""


class Watch:
    """Clients of the balancer, readers of each replica, and probers beside each database."""

    def __init__(self, cluster: RunningCluster, seed: int) -> None:
        self.cluster = cluster
        self.history = History()
        self.load = Load(cluster.url, ACCOUNT, seed, http=cluster.http)
        self.readers = {
            name: Reader(cluster.url_of(name), ACCOUNT, cluster.http, Reads(name))
            for name in cluster.replicas
        }
        self._seed = seed
        self._probers: list[Prober] = []
        self._reading: list[Future[None]] = []
        self.struck_at = 0.0
        self.over_at = 0.0

    def __enter__(self) -> Self:
        self.cluster.until_whole()
        primary = self.cluster.machines[self.cluster.primary()]
        for statement in (_TABLE, _BEGUN):
            ask(primary, self.cluster.location(primary.name), statement)
        image = random_image(random.Random(self._seed))
        self.cluster.client.call(self._push_for_readers(image), seconds=60)
        self._until_copied(image)
        self.cluster.client.call(self._start_clients(image), seconds=120)
        for name in self.cluster.replicas:
            location = self.cluster.location(name)
            self._probers.append(Prober(self.cluster.machines[name], location, self.history))
        for prober in self._probers:
            prober.start()
        self.until_more(3)
        self.struck_at = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for prober in self._probers:
            prober.stop()
        for reading in self._reading:
            reading.cancel()
        try:
            self.cluster.client.call(self.load.stop(), seconds=150)
        except TimeoutError:
            if error is None:
                raise

    def until_more(self, count: int, *, seconds: float = 150) -> None:
        """Return once there were so many more pushes and pulls."""
        self.cluster.client.call(self.load.until_more(count, seconds=seconds), seconds=seconds + 10)

    def until_over(self, *, seconds: float = 240) -> float:
        """Return once the cluster is whole again and clients work, and how long the first took."""
        took = self.cluster.until_whole(seconds=seconds)
        self.until_more(3)
        self.over_at = time.monotonic()
        return took

    def lost(self) -> list[str]:
        """Say which acknowledged push or row is not there, through each replica and database."""
        self.cluster.until_whole()
        lost = []
        for name in self.cluster.replicas:
            read_back = self.load.lost(self.cluster.url_of(name))
            lost += self.cluster.client.call(read_back, seconds=300)
        primary = self.cluster.machines[self.cluster.primary()]
        rows = ask(primary, self.cluster.location(primary.name), _ROWS)
        return lost + [f"row {number} of {server}" for server, number in self.history.lost(rows)]

    @property
    def write_gap(self) -> float:
        """The longest time without a commit, since the strike."""
        return self.history.longest_gap(self.struck_at, self.over_at)

    def read_gap(self, names: list[str]) -> float:
        """Give the longest time in which one of these replicas answered no reader."""
        gaps = [
            self.readers[name].reads.longest_gap(self.struck_at, self.over_at) for name in names
        ]
        return max(gaps, default=0.0)

    async def _push_for_readers(self, image: Image) -> None:
        docker = Docker(self.load.url, ACCOUNT, Record(), self.load.http)
        await docker.push(_REPOSITORY, "latest", image)
        await docker.close()

    def _until_copied(self, image: Image) -> None:
        """Wait for the copies beyond those that acknowledge: one for each of up to three replicas.

        With three replicas each can serve alone then; of five, two must ask the others.
        """
        disks = [self.cluster.machines[name].disk.path / "replicas" for name in self.readers]
        names = [digest.partition(":")[2] for digest in image.blobs]
        wanted = min(_COPIES, len(disks))

        def is_copied(name: str) -> bool:
            return sum(any(disk.rglob(f"{name}*")) for disk in disks) >= wanted

        wait_until(lambda: all(map(is_copied, names)), "all copies are there", seconds=60)

    async def _start_clients(self, image: Image) -> None:
        for reader in self.readers.values():
            self._reading.append(self.cluster.client.begin(reader.run(_REPOSITORY, image)))
        await self.load.start(pushes=3)
