"""A node that waits for changes in many requests at once holds up nobody else.

Each wait is several watches, and a controller has so many connections to etcd, for all nodes
together.
"""

import threading
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from tests.ucp.plane import ControlPlane

from dtr.testing.store import MemoryStore
from dtr.ucp import keys
from dtr.ucp.api import PREFIX
from dtr.ucp.controller.waits import MOST_WAITS
from dtr.ucp.model import Service

MANY = 24
MOST_WATCHES = 7 * MOST_WAITS
SOON = 20.0


class CountingStore(MemoryStore):
    """A store that counts its watches."""

    watches = 0
    most_watches = 0

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[int]:
        """Count, and watch."""
        self.watches += 1
        self.most_watches = max(self.watches, self.most_watches)
        try:
            async for revision in super().watch(prefix, after):
                yield revision
        finally:
            self.watches -= 1


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give a control plane whose watches are counted."""
    plane = ControlPlane(tmp_path)
    plane.store = CountingStore(clock=lambda: plane.now)
    with plane:
        yield plane


def test_only_the_newest_waits_of_a_node_go_on(plane: ControlPlane) -> None:
    """Those before them are answered that nothing has changed; the newest hears of a change."""
    greedy = plane.join("node2", "10.0.0.2")
    answers: list[int] = []
    with plane.http(greedy) as http:
        path = (
            f"{PREFIX}/agent/wanted?after={http.get(f'{PREFIX}/agent/wanted').json()['revision']}"
        )
        threads = [
            threading.Thread(target=lambda: answers.append(http.get(path).status_code))
            for _ in range(MANY)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + SOON
        while len(answers) < MANY - MOST_WAITS and time.monotonic() < deadline:
            time.sleep(0.02)
        assert isinstance(plane.store, CountingStore)
        assert plane.store.watches <= MOST_WATCHES
        service = Service(name="replica", node_id=greedy.id, specification={"id": "0123"})
        plane.put(keys.service(greedy.id, "replica"), service.encoded())
        for thread in threads:
            thread.join(SOON)
    assert answers == [200] * MANY
