"""What is due again and again is asked for once in the whole registry."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from tests.jobs.workshop import ALONE, PAIRED, Machine, Workshop, drain

from dtr.database import Database
from dtr.jobs import JobKind, RunnerSettings, Schedule, check_timing, every, records
from dtr.jobs.schedules import list_schedules
from dtr.model.timing import next_time

MIDNIGHT = 1_700_006_400.0
PAUSED = Schedule("tidy", ALONE.name, every(300))
NIGHTLY = Schedule("nightly", ALONE.name, "0 3 * * *", {"loud": True})


@pytest.fixture
async def workshop(database: Database) -> AsyncIterator[Workshop]:
    """Give a queue without runners, at midnight."""
    workshop = Workshop(database)
    workshop.clock.now = MIDNIGHT
    yield workshop
    await workshop.close()


async def run_next(workshop: Workshop, *machines: Machine, step: float = 1) -> float:
    """Let time go by until a job begins; end it; return when it began."""
    for _ in range(100_000):
        for machine in machines:
            await machine.turn()
        if workshop.working:
            began = workshop.clock.now
            await workshop.end(workshop.working[0])
            return began
        workshop.advance(step)
    raise AssertionError("nothing began")


async def test_a_pause_is_between_the_end_of_one_and_the_next(workshop: Workshop) -> None:
    """Also where the job takes longer than the pause."""
    machine = workshop.machine(schedules=[PAUSED])
    await machine.turn()
    workshop.advance(5)
    await machine.turn()
    work = workshop.working[0]
    workshop.advance(900)
    assert await machine.turn() is not None, "what has an open job is not due"
    assert workshop.working == [work]
    await workshop.end(work)
    ended = workshop.clock.now
    assert await run_next(workshop, machine) == ended + 300
    assert sum(workshop.begun.values()) == 2


async def test_a_cron_expression_is_in_utc(workshop: Workshop) -> None:
    """And its job has the schedule's parameters."""
    machine = workshop.machine(schedules=[NIGHTLY])
    assert await run_next(workshop, machine, step=60) == MIDNIGHT + 3 * 3600
    jobs = await workshop.database.read(records.list_jobs)
    assert [(job.schedule, dict(job.parameters)) for job in jobs] == [("nightly", {"loud": True})]
    assert await run_next(workshop, machine, step=60) == MIDNIGHT + 27 * 3600


async def test_several_runners_ask_once(workshop: Workshop) -> None:
    """Whoever is first, and whatever their clocks say."""
    machines = [workshop.machine(schedules=[NIGHTLY], skew=skew) for skew in (-20, 0, 20)]
    for _ in range(4):
        await run_next(workshop, *machines, step=600)
    jobs = await workshop.database.read(records.list_jobs)
    assert len(jobs) == 4
    assert len({round((job.created_at - MIDNIGHT) / 86400) for job in jobs}) == 4


async def test_runners_at_the_same_moment_ask_once(workshop: Workshop) -> None:
    """The database decides between them."""
    machines = [workshop.machine(schedules=[PAUSED]) for _ in range(4)]
    await asyncio.gather(*(machine.turn() for machine in machines))
    for _ in range(5):
        workshop.advance(305)
        await asyncio.gather(*(machine.turn() for machine in machines))
        assert len(workshop.working) == 1
        await workshop.end(workshop.working[0])
    assert set(workshop.begun.values()) == {1}
    assert len(workshop.begun) == 5


async def test_times_that_pass_while_the_job_runs_are_skipped(workshop: Workshop) -> None:
    """A job that takes two days is not made up for."""
    machine = workshop.machine(schedules=[NIGHTLY])
    await machine.turn()
    workshop.advance(4 * 3600)
    await machine.turn()
    workshop.advance(2 * 86400)
    await workshop.end(workshop.working[0])
    assert await run_next(workshop, machine, step=60) == MIDNIGHT + 86400 * 3 + 3 * 3600


async def test_what_was_missed_while_nobody_ran_is_done_once(workshop: Workshop) -> None:
    """A machine that is off by night does by day what it missed."""
    first = workshop.machine(schedules=[NIGHTLY])
    await first.turn()
    await workshop.kill(first)
    workshop.advance(5 * 86400)
    machine = workshop.machine(schedules=[NIGHTLY])
    assert await run_next(workshop, machine, step=60) == workshop.clock.now
    assert await run_next(workshop, machine, step=60) > workshop.clock.now - 86400 * 2
    assert sum(workshop.begun.values()) == 2


async def test_servers_with_the_same_settings_change_nothing(workshop: Workshop) -> None:
    """A start leaves times as they are."""
    await workshop.machine(schedules=[PAUSED, NIGHTLY]).turn()
    before = await workshop.database.read(list_schedules)
    await workshop.machine(schedules=[NIGHTLY, PAUSED]).turn()
    assert await workshop.database.read(list_schedules) == before


async def test_a_changed_timing_holds_from_the_next_start(workshop: Workshop) -> None:
    """A shorter pause does not wait for the end of the longer one."""
    await workshop.machine(schedules=[Schedule("tidy", ALONE.name, every(86400))]).turn()
    workshop.advance(10)
    machine = workshop.machine(schedules=[PAUSED])
    assert await run_next(workshop, machine) <= MIDNIGHT + 310


async def test_a_disabled_schedule_asks_for_nothing(workshop: Workshop) -> None:
    """Until it is enabled again."""
    off = Schedule("tidy", ALONE.name, every(300), is_enabled=False)
    machine = workshop.machine(schedules=[off])
    for _ in range(10):
        await machine.turn()
        workshop.advance(300)
    assert not workshop.begun
    assert await run_next(workshop, workshop.machine(schedules=[PAUSED]))


async def test_a_schedule_of_a_newer_version_is_left_alone(workshop: Workshop) -> None:
    """While versions run side by side."""
    newer = Schedule("newer", JobKind("newer", "").name, every(1))
    await workshop.machine(schedules=[newer]).turn()
    machine = workshop.machine(schedules=[PAUSED])
    await run_next(workshop, machine)
    names = [schedule.name for schedule, _ in await workshop.database.read(list_schedules)]
    assert names == ["newer", "tidy"]
    assert {job.kind for job in await workshop.database.read(records.list_jobs)} == {ALONE.name}


async def test_a_job_by_hand_does_not_hold_the_schedule_up(workshop: Workshop) -> None:
    """It has a place in the same line."""
    await workshop.enqueue(PAIRED)
    machine = workshop.machine(schedules=[Schedule("pair", PAIRED.name, every(60))])
    await machine.turn()
    workshop.advance(60)
    await machine.turn()
    assert len(workshop.working) == 2
    for work in list(workshop.working):
        await workshop.end(work)
    await drain(workshop)


async def test_a_short_pause_costs_little(workshop: Workshop) -> None:
    """A runner sleeps until what is next due, and what ended is forgotten."""
    often = Schedule("often", ALONE.name, every(0.2))
    machine = workshop.machine(schedules=[often], settings=RunnerSettings())
    pauses: list[float] = []
    for _ in range(50):
        pause = await machine.turn()
        assert pause is not None
        pauses.append(pause)
        workshop.advance(max(pause, 0.001))
        for work in list(workshop.working):
            await workshop.end(work)
    assert 10 <= sum(workshop.begun.values()) <= 26
    assert max(pauses) < 0.21


@pytest.mark.parametrize(
    "text", ["", "every day", "* * * *", "61 * * * *", "0 0 30 2 *", "every 1"]
)
def test_what_is_no_timing_is_refused(text: str) -> None:
    """With the reason."""
    with pytest.raises(ValueError, match="not a cron expression"):
        check_timing(text)


def test_the_next_time_is_later() -> None:
    """Also than a time that is due itself."""
    timings: Sequence[str] = ("* * * * *", "0 3 * * *", every(1))
    for timing in timings:
        once = next_time(timing, MIDNIGHT)
        assert MIDNIGHT < once < next_time(timing, once)
