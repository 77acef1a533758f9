"""The store in memory keeps what the suite asks, and fails on purpose where a test wants it to."""

import pytest

from dtr.model.errors import UnavailableError
from dtr.testing.store import MemoryStore
from dtr.testing.stores import StoreConformance
from dtr.ucp.store import Put


class TestMemoryStore(StoreConformance):
    """The conformance suite, with a clock that nobody waits for."""

    now = 1000.0

    @pytest.fixture
    def store(self) -> MemoryStore:
        """Return an empty store."""
        return MemoryStore(lambda: self.now)

    async def pass_seconds(self, seconds: float) -> None:
        """Move the clock."""
        self.now += seconds


async def test_a_store_that_is_away_does_nothing() -> None:
    """Neither reads nor writes."""
    store = MemoryStore()
    store.is_available = False
    with pytest.raises(UnavailableError):
        await store.get("/a")
    with pytest.raises(UnavailableError):
        await store.commit([Put("/a", b"1")])
    store.is_available = True
    assert await store.get("/a") is None


async def test_an_answer_can_be_lost_after_the_commit() -> None:
    """Which is what makes a write unknown."""
    store = MemoryStore()
    store.loses_answers = True
    with pytest.raises(UnavailableError):
        await store.commit([Put("/a", b"1")])
    assert await store.get("/a") is not None
