"""Units of the queue, alone: what they refuse, and what running them again does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.jobs.workshop import ALONE, PAIRED, Workshop

from dtr.database import Database
from dtr.jobs import Job, JobKind, NewJob, State, records
from dtr.jobs.model import Line, Outcome, Report

DONE = Outcome(State.SUCCEEDED)


def claim(database: Database, kind: JobKind = ALONE, *held: int, runner: str = "me") -> Job | None:
    """Claim a job of a kind."""
    return database.write_now(records.claim, kind, runner, frozenset(held), 50.0)


def enqueue_and_claim(database: Database) -> Job:
    """Enqueue a job and claim it."""
    database.write_now(records.enqueue, NewJob(ALONE), 1.0)
    job = claim(database)
    assert job is not None
    return job


def release(database: Database, job: Job) -> list[int]:
    """Take a job from its runner, seen as it was."""
    return database.write_now(records.release, [job], 20.0)


def finish(database: Database, job: Job, outcome: Outcome = DONE) -> bool:
    """End an attempt."""
    said = Report(job.claim, "done", (Line(job.attempts * 10_000, 1.0, "info", "a line"),))
    return database.write_now(records.finish, said, outcome, 30.0, 40.0)


def state(database: Database, job: Job) -> State:
    """Return how a job stands."""
    found = database.read_now(records.find_job, job.id)
    assert found is not None
    return found.state


def test_a_claim_is_of_one_attempt(database: Database) -> None:
    """The same runner's earlier attempt changes nothing any more."""
    first = enqueue_and_claim(database)
    assert release(database, first) == [first.id]
    second = claim(database)
    assert second is not None
    assert (second.runner, second.attempts) == (first.runner, 2)
    assert not finish(database, first)
    assert database.write_now(records.report, [Report(first.claim, "late")], 25.0) == {first.id}
    database.write_now(records.hand_back, [Report(first.claim, "late")], 25.0)
    assert state(database, first) is State.RUNNING
    assert finish(database, second)


def test_a_claim_whose_answer_was_lost_is_made_again(database: Database) -> None:
    """And no second job is claimed besides, though there is one and room for it."""
    for _ in range(2):
        database.write_now(records.enqueue, NewJob(PAIRED), 1.0)
    first = claim(database, PAIRED)
    assert first is not None
    assert claim(database, PAIRED) == first
    other = claim(database, PAIRED, first.id)
    assert other is not None
    assert other.id != first.id


def test_what_is_alive_after_all_is_not_released(database: Database) -> None:
    """A heartbeat came between the look and the deed."""
    seen = enqueue_and_claim(database)
    assert not database.write_now(records.report, [Report(seen.claim, "well")], 11.0)
    assert release(database, seen) == []
    assert state(database, seen) is State.RUNNING


def test_an_end_is_written_once(database: Database) -> None:
    """Its lost answer is found; another end comes too late."""
    job = enqueue_and_claim(database)
    assert finish(database, job)
    assert finish(database, job)
    assert len(database.read_now(records.read_log, job.id)) == 1
    assert finish(database, replace(job, runner="another")) is False
    assert state(database, job) is State.SUCCEEDED


def test_a_failure_that_is_tried_again_is_written_once(database: Database) -> None:
    """Also where its answer was lost."""
    job = enqueue_and_claim(database)
    failure = Outcome(State.FAILED, "went wrong", may_retry=True)
    assert finish(database, job, failure)
    assert finish(database, job, failure)
    assert state(database, job) is State.WAITING


def test_a_job_is_handed_back_once(database: Database) -> None:
    """It costs no attempt, and running the unit again gives none."""
    job = enqueue_and_claim(database)
    for _ in range(3):
        database.write_now(records.hand_back, [Report(job.claim, "")], 15.0)
    found = database.read_now(records.find_job, job.id)
    assert found is not None
    assert (found.state, found.attempts, found.most_attempts) == (State.WAITING, 1, 4)


@pytest.mark.parametrize("end", ["hand back", "release"])
def test_who_is_to_be_cancelled_does_not_wait_again(database: Database, end: str) -> None:
    """Whatever becomes of the runner."""
    job = enqueue_and_claim(database)
    database.write_now(records.cancel, job.id, 12.0)
    if end == "release":
        assert release(database, job) == [job.id]
    else:
        database.write_now(records.hand_back, [Report(job.claim, "")], 15.0)
    assert state(database, job) is State.CANCELLED


def test_a_job_in_the_foreground_begins_once(database: Database) -> None:
    """And only where there is room."""
    new = NewJob(ALONE)
    job = database.write_now(records.begin, new, "me", 1.0)
    assert job is not None
    assert database.write_now(records.begin, new, "me", 1.0) == job
    assert database.write_now(records.begin, NewJob(ALONE), "me", 1.0) is None


@pytest.fixture
async def workshop(database: Database) -> AsyncIterator[Workshop]:
    """Give a queue without runners."""
    workshop = Workshop(database)
    yield workshop
    await workshop.close()


async def test_a_job_that_ends_while_its_runner_looks_is_not_begun_again(
    workshop: Workshop,
) -> None:
    """What the runner has read is then older than what it knows."""
    job_id = await workshop.enqueue()
    machine = workshop.machine()
    await machine.turn()
    work = workshop.working[0]

    async def end_meanwhile() -> None:
        await workshop.end(work)

    machine.database.after_read = end_meanwhile
    await machine.turn()
    await asyncio.sleep(0.01)
    assert workshop.begun == {(job_id, 1): 1}
    assert not machine.runner.held
