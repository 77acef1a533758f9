"""Health: cheap, quick, not given up for one failure, and naming what fails."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dtr.model.errors import UnavailableError
from dtr.server.health import Check, Health, Verdict
from dtr.storage import FilesystemBlobStore
from dtr.testing.registry import ManualClock

WELL = Verdict(is_healthy=True, problem="")
OpenHealth = Callable[..., Health]


class Part:
    """A component that works, fails or hangs as it is told, and counts who asks."""

    def __init__(self) -> None:
        self.problem = ""
        self.remark = ""
        self.hangs = False
        self.asked = 0

    async def check(self) -> str:
        """Answer as told."""
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.problem:
            raise UnavailableError(self.problem)
        return self.remark


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that the test moves."""
    return ManualClock()


@pytest.fixture
async def open_health(clock: ManualClock) -> AsyncIterator[OpenHealth]:
    """Give a way to make what is tested."""
    opened: list[Health] = []

    def open_one(drain_file: Path | None = None, **checks: Check) -> Health:
        opened.append(Health(checks, drain_file=drain_file, clock=clock))
        return opened[-1]

    yield open_one
    for health in opened:
        await health.close()


async def test_an_answer_is_remembered_for_a_second(
    open_health: OpenHealth, clock: ManualClock
) -> None:
    """However many ask in it."""
    part = Part()
    health = open_health(storage=part.check)
    for _ in range(5):
        assert await health.verdict() == WELL
    assert part.asked == 1
    clock.advance(1)
    await asyncio.gather(*(health.verdict() for _ in range(5)))
    assert part.asked == 2


async def test_three_failures_in_a_row_are_one_too_many(
    open_health: OpenHealth, clock: ManualClock
) -> None:
    """One that works in between begins the count again; one success makes it well."""
    part = Part()
    health = open_health(storage=Part().check, metadata=part.check)
    assert await health.verdict() == WELL
    for problem in ("away", "away", "", "away", "away"):
        part.problem = problem
        clock.advance(1)
        assert await health.verdict() == WELL
    clock.advance(1)
    assert await health.verdict() == Verdict(is_healthy=False, problem="metadata: away")
    assert await health.components() == {"storage": "", "metadata": "away"}
    part.problem = ""
    clock.advance(1)
    assert await health.verdict() == WELL


async def test_what_does_not_come_back_by_itself_is_certain_at_once(
    open_health: OpenHealth, clock: ManualClock, tmp_path: Path
) -> None:
    """A directory that is gone, whichever it is; and it is well as soon as it is there again."""
    store = FilesystemBlobStore(tmp_path)

    async def check() -> str:
        await store.check()
        return ""

    health = open_health(storage=check)
    assert await health.verdict() == WELL
    for name in ("uploads", "blobs", "blobs/sha256"):
        (tmp_path / name).rename(tmp_path / "elsewhere")
        clock.advance(1)
        verdict = await health.verdict()
        assert not verdict.is_healthy
        assert verdict.problem.startswith("storage: a directory of the blob storage is gone: No")
        (tmp_path / "elsewhere").rename(tmp_path / name)
        clock.advance(1)
        assert await health.verdict() == WELL
    await store.close()


async def test_what_was_never_well_is_not_believed_first(open_health: OpenHealth) -> None:
    """A server that has just started shows what it has seen."""
    part = Part()
    part.problem = "broken"
    verdict = await open_health(storage=part.check).verdict()
    assert verdict == Verdict(is_healthy=False, problem="storage: broken")


async def test_a_remark_leaves_it_healthy(open_health: OpenHealth) -> None:
    """Such as that only pulls are answered."""
    part = Part()
    part.remark = "pulls only"
    verdict = await open_health(metadata=part.check).verdict()
    assert verdict == Verdict(is_healthy=True, problem="metadata: pulls only")


@pytest.mark.measuring
async def test_what_hangs_is_waited_for_two_seconds_and_asked_once(
    open_health: OpenHealth, clock: ManualClock
) -> None:
    """A thread that a dead disk holds is not joined by another at every question."""
    part = Part()
    part.hangs = True
    health = open_health(storage=part.check, metadata=part.check)
    for _ in range(2):
        started = time.monotonic()
        verdict = await health.verdict()
        assert time.monotonic() - started < 2.5
        assert verdict == Verdict(is_healthy=False, problem="storage: no answer")
        clock.advance(1)
    assert part.asked == 2


async def test_a_fault_in_a_check_is_its_components(open_health: OpenHealth) -> None:
    """It is said without what it was about."""

    async def broken() -> str:
        raise KeyError("a secret of the inside")

    verdict = await open_health(storage=broken).verdict()
    problem = "storage: an unexpected error; see the log"
    assert verdict == Verdict(is_healthy=False, problem=problem)


async def test_draining_is_said_at_once_and_asks_nobody(
    open_health: OpenHealth, tmp_path: Path
) -> None:
    """As long as the file is there."""
    part, file = Part(), tmp_path / "drain"
    health = open_health(file, storage=part.check)
    file.touch()
    assert await health.verdict() == Verdict(is_healthy=False, problem="draining")
    assert part.asked == 0
    file.unlink()
    assert await health.verdict() == WELL


async def test_it_goes_on_checking_while_somebody_asks_now_and_then(
    open_health: OpenHealth, clock: ManualClock
) -> None:
    """So that failures are counted by time; and not when nobody has asked for a while."""
    part = Part()
    health = open_health(storage=part.check)
    following = asyncio.create_task(health.follow())
    try:
        await health.verdict()
        part.problem = "away"
        async with asyncio.timeout(20):
            while part.asked < 4:
                clock.advance(0.2)
                await asyncio.sleep(0.1)
        verdict = await health.verdict()
        assert verdict == Verdict(is_healthy=False, problem="storage: away")
        clock.advance(60)
        asked = part.asked
        await asyncio.sleep(1.3)
        assert part.asked == asked
    finally:
        following.cancel()
