"""One controller leads at a time, loses the lead in time, and writes nothing afterwards."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from structlog.testing import capture_logs

from dtr.model.errors import UnavailableError
from dtr.testing.store import MemoryStore
from dtr.testing.stores import until
from dtr.ucp import keys
from dtr.ucp.leading import Leader, LeadingSettings, leader_of
from dtr.ucp.store import FencedStore, Put

QUICK = LeadingSettings(lease_seconds=2, renewal_seconds=0.05, pause_seconds=0.01, cycle_seconds=5)


class Counter:
    """A loop that counts its cycles."""

    name = "counter"

    def __init__(self, reason: Callable[[], str] = lambda: "counted") -> None:
        self.cycles = 0
        self.store: FencedStore | None = None
        self.now = 0.0
        self._reason = reason

    async def cycle(self, store: FencedStore, now: float) -> str:
        """Count."""
        self.cycles += 1
        self.store = store
        self.now = now
        return self._reason()


class Stuck:
    """A loop whose cycle never ends by itself."""

    name = "stuck"

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0

    async def cycle(self, store: FencedStore, now: float) -> str:
        """Wait for ever."""
        del store, now
        self.begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1
        return "never"


@asynccontextmanager
async def running(*leaders: Leader) -> AsyncIterator[None]:
    """Run leaders until the end of the block."""
    tasks = [asyncio.create_task(leader.run()) for leader in leaders]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def leads(leader: Leader) -> None:
    """Return once it leads."""

    async def is_so() -> bool:
        return leader.is_leading

    await until(is_so, "it leads")


async def leads_no_more(leader: Leader) -> None:
    """Return once it does not lead."""

    async def is_so() -> bool:
        return not leader.is_leading

    await until(is_so, "it leads no more")


async def test_a_leader_runs_its_loops_and_says_who_it_is() -> None:
    """Over and over, telling them the time."""
    store = MemoryStore()
    assert await leader_of(store) is None
    loop = Counter()
    leader = Leader(store, "node1", [loop], QUICK, clock=lambda: 1234)
    async with running(leader):
        await leads(leader)

        async def has_cycled() -> bool:
            return loop.cycles > 3

        await until(has_cycled, "the loop runs")
        record = await leader_of(store)
        assert record is not None
        assert (record.node_id, record.since, loop.now) == ("node1", 1234, 1234)
        assert leader.reasons == {"counter": "counted"}


async def test_only_one_leads() -> None:
    """And another as soon as it has gone in order."""
    store = MemoryStore()
    first, second = Counter(), Counter()
    one, other = Leader(store, "node1", [first], QUICK), Leader(store, "node2", [second], QUICK)
    async with running(one):
        await leads(one)
        campaign = asyncio.create_task(other.run())
        await asyncio.sleep(0.1)
        assert not other.is_leading
        assert second.cycles == 0
    await leads(other)
    assert not one.is_leading
    campaign.cancel()
    await asyncio.wait([campaign])
    assert await leader_of(store) is None


async def test_a_reason_is_logged_when_it_changes() -> None:
    """Not each second."""
    reasons = iter(["a", "a", "a", "b", "b", "a"])
    loop = Counter(lambda: next(reasons, "a"))
    leader = Leader(MemoryStore(), "node1", [loop], QUICK)
    with capture_logs() as logs:
        async with running(leader):

            async def has_cycled() -> bool:
                return loop.cycles > 7

            await until(has_cycled, "the loop runs")
    assert [each["reason"] for each in logs if each["event"] == "decided"] == ["a", "b", "a"]


async def test_a_leader_without_a_store_stops_when_its_lease_would_have_ended() -> None:
    """Its loops are cut short; once the store is back somebody leads again."""
    store = MemoryStore()
    stuck = Stuck()
    leader = Leader(store, "node1", [stuck], QUICK)
    async with running(leader):
        await leads(leader)
        store.is_available = False
        await leads_no_more(leader)

        async def has_ended() -> bool:
            return stuck.ended == 1

        await until(has_ended, "the cycle was cut short")
        store.is_available = True
        await leads(leader)


async def test_a_leader_whose_lease_was_ended_stops_and_cannot_write() -> None:
    """Whatever it still tries."""
    store = MemoryStore()
    loop = Counter()
    leader = Leader(store, "node1", [loop], QUICK)
    async with running(leader):
        await leads(leader)

        async def has_cycled() -> bool:
            return loop.store is not None

        await until(has_cycled, "the loop runs")
        old = loop.store
        assert old is not None
        assert await old.commit([Put("/a", b"1")])
        before = await store.get(keys.LEADER)
        await store.revoke(1)
        assert not await old.commit([Put("/a", b"2")])

        async def leads_again() -> bool:
            now = await store.get(keys.LEADER)
            return now is not None and before is not None and now.created != before.created

        await until(leads_again, "it leads anew")
        assert not await old.commit([Put("/a", b"3")])


async def test_a_lead_whose_answer_was_lost_is_found() -> None:
    """Not given away for the length of a lease."""
    store = MemoryStore()
    store.loses_answers = True
    leader = Leader(store, "node1", [], QUICK)
    async with running(leader):
        await leads(leader)


async def test_a_loop_that_fails_is_run_again_and_stops_no_other() -> None:
    """Whatever it raises."""

    class Broken(Counter):
        name = "broken"

        async def cycle(self, store: FencedStore, now: float) -> str:
            await super().cycle(store, now)
            raise (ValueError("broken"), UnavailableError("away"))[self.cycles % 2]

    broken, sound = Broken(), Counter()
    leader = Leader(MemoryStore(), "node1", [broken, sound], QUICK)
    with capture_logs() as logs:
        async with running(leader):

            async def have_cycled() -> bool:
                return min(broken.cycles, sound.cycles) > 3

            await until(have_cycled, "both run")
    told = {each["reason"] for each in logs if each.get("loop") == "broken"}
    assert told == {"the cycle failed: ValueError('broken')", "something did not answer: away"}


async def test_a_cycle_is_bounded_in_time() -> None:
    """One that hangs is begun again."""
    stuck = Stuck()
    settings = LeadingSettings(
        lease_seconds=10, renewal_seconds=0.05, pause_seconds=0.01, cycle_seconds=0.05
    )
    leader = Leader(MemoryStore(), "node1", [stuck], settings)
    async with running(leader):

        async def is_begun_again() -> bool:
            return stuck.begun > 2

        await until(is_begun_again, "it is begun again")
        assert leader.is_leading
        assert "too long" in leader.reasons["stuck"]
