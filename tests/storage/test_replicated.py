"""The replicated driver keeps the port's promises, alone and among three."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.replicas import PACE, Replicas

from dtr.storage import BlobStore
from dtr.storage.replicated import ReplicatedBlobStore
from dtr.testing.blobs import BlobStoreConformance

# What is deleted at others is looked for at once: here nobody goes on without their answers.
UNHURRIED = replace(PACE, hedge_seconds=20)


class _Opened(ReplicatedBlobStore):
    """A store that takes the peer endpoints with it when it is closed, last of all."""

    replicas: Replicas

    async def close(self) -> None:
        """Close the store, then the endpoints; the twin only has connections to close yet."""
        await super().close()
        await self.replicas.stop()


class _Among(BlobStoreConformance):
    """The suite over two replicas of `count`, each with a real endpoint and real certificates."""

    count: int

    @pytest.fixture
    async def replicas(self, tmp_path: Path) -> Replicas:
        """Give the machines, their endpoints started."""
        replicas = Replicas(tmp_path, self.count)
        await replicas.start()
        return replicas

    @pytest.fixture
    async def twin(self, replicas: Replicas) -> BlobStore:
        """Return what another replica sees, or another process of the only one."""
        return replicas.machines[-1].open(UNHURRIED)

    @pytest.fixture
    async def store(self, replicas: Replicas) -> BlobStore:
        """Return an empty store."""
        machine = replicas.machines[0]
        store = _Opened(machine.disk(), machine.replication, pace=UNHURRIED)
        store.replicas = replicas
        return store


class TestOneReplica(_Among):
    """Alone it is what the filesystem driver is."""

    count = 1


class TestThreeReplicas(_Among):
    """Among three, two hold what is acknowledged; the twin is the third."""

    count = 3
