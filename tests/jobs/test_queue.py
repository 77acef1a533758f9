"""A job is run by one runner, to its end, whatever becomes of runners and answers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.jobs.workshop import ALONE, LIMIT, PAIRED, SETTINGS, Workshop

from dtr.database import Database
from dtr.jobs import JobKind, NewJob, State, records
from dtr.jobs.execution import UNEXPECTED


@pytest.fixture
async def workshop(database: Database) -> AsyncIterator[Workshop]:
    """Give a queue without runners."""
    workshop = Workshop(database)
    yield workshop
    await workshop.close()


async def test_a_job_runs_once_and_says_what_came_of_it(workshop: Workshop) -> None:
    """Waiting, running, succeeded; its progress and its log can be read meanwhile."""
    job_id = await workshop.enqueue(parameters={"loud": True})
    machine, other = workshop.machine(), workshop.machine()
    assert (await workshop.job(job_id)).state is State.WAITING
    await machine.turn()
    await other.turn()
    work = workshop.working[0]
    assert work.context.parameters == {"loud": True}
    work.context.progress("half is done")
    work.context.log("the first half")
    workshop.advance(1)
    await machine.turn()
    running = await workshop.job(job_id)
    assert (running.state, running.runner) == (State.RUNNING, machine.runner.name)
    assert running.progress == "half is done"
    assert await workshop.log(job_id) == ["the first half"]
    await workshop.end(work)
    ended = await workshop.job(job_id)
    assert (ended.state, ended.progress, ended.attempts) == (State.SUCCEEDED, "all is done", 1)
    await machine.turn()
    await other.turn()
    assert workshop.begun == {(job_id, 1): 1}


async def test_one_request_enqueues_one_job(workshop: Workshop) -> None:
    """A unit that is run again after a lost answer finds that it is done."""
    new = NewJob(ALONE)
    ids = {await workshop.database.write(records.enqueue, new, 1.0) for _ in range(3)}
    assert len(ids) == 1
    assert len(await workshop.database.read(records.list_jobs)) == 1


async def test_a_kind_has_a_limit_in_the_whole_registry(workshop: Workshop) -> None:
    """Two machines together run no more of a kind than one may."""
    ids = [await workshop.enqueue(kind) for kind in (ALONE, ALONE, PAIRED, PAIRED, PAIRED)]
    machine, other = workshop.machine(), workshop.machine()
    await machine.turn()
    await other.turn()
    kinds = sorted(work.job.kind for work in workshop.working)
    assert kinds == ["alone", "paired", "paired"]
    for work in list(workshop.working):
        await workshop.end(work)
    await other.turn()
    assert sorted(work.job.id for work in workshop.working) == [ids[1], ids[4]]


async def test_a_runner_has_a_limit_of_its_own(workshop: Workshop) -> None:
    """What one has no room for, another takes."""
    for _ in range(2):
        await workshop.enqueue(PAIRED)
    small = replace(SETTINGS, slots=1)
    machine, other = workshop.machine(settings=small), workshop.machine(settings=small)
    await machine.turn()
    await machine.turn()
    assert len(workshop.work_of(machine)) == 1
    await other.turn()
    assert len(workshop.work_of(other)) == 1


async def test_jobs_run_in_the_order_in_which_they_are_due(workshop: Workshop) -> None:
    """And not before."""
    now = workshop.clock.now
    late, early = [await workshop.enqueue(run_at=now + at) for at in (20, 10)]
    machine = workshop.machine()
    await machine.turn()
    assert not workshop.working
    workshop.advance(30)
    for expected in (early, late):
        await machine.turn()
        assert [work.job.id for work in workshop.working] == [expected]
        await workshop.end(workshop.working[0])


async def test_a_failure_is_tried_again_later_each_time_and_not_for_ever(
    workshop: Workshop,
) -> None:
    """After its last attempt a job is failed, and says why."""
    job_id = await workshop.enqueue()
    machine = workshop.machine()
    for attempt in (1, 2, 3):
        await machine.turn()
        await workshop.end(workshop.working[0], "fail")
        job = await workshop.job(job_id)
        assert job.attempts == attempt
        assert job.error == UNEXPECTED
        if attempt < 3:
            assert job.state is State.WAITING
            assert 0 < job.run_at - workshop.clock.now <= 2**attempt
            await machine.turn()
            assert not workshop.working
            workshop.advance(2**attempt)
    assert job.state is State.FAILED
    assert await workshop.log(job_id) == [UNEXPECTED] * 3


async def test_what_cannot_succeed_is_not_tried_again(workshop: Workshop) -> None:
    """A body that knows says so."""
    job_id = await workshop.enqueue()
    await workshop.machine().turn()
    await workshop.end(workshop.working[0], "fail for good")
    job = await workshop.job(job_id)
    assert (job.state, job.error, job.attempts) == (State.FAILED, "this cannot go right", 1)


async def test_a_job_that_takes_too_long_is_stopped(workshop: Workshop) -> None:
    """The deadline is of each attempt."""
    hasty = NewJob(replace(ALONE, deadline_seconds=0.01, most_attempts=1))
    job_id = await workshop.database.write(records.enqueue, hasty, workshop.clock.now)
    machine = workshop.machine()
    await machine.turn()
    await asyncio.sleep(0.02)
    await workshop.settle()
    job = await workshop.job(job_id)
    assert job.state is State.FAILED
    assert "deadline" in job.error
    assert not workshop.working


async def test_a_waiting_job_is_cancelled_at_once(workshop: Workshop) -> None:
    """Nobody ever runs it; cancelling again, or what is not there, changes nothing."""
    job_id = await workshop.enqueue()
    for _ in range(2):
        job = await workshop.database.write(records.cancel, job_id, workshop.clock.now)
        assert job is not None
        assert job.state is State.CANCELLED
    await workshop.machine().turn()
    assert not workshop.working
    assert await workshop.database.write(records.cancel, 1_000_000, 0.0) is None


async def test_a_running_job_is_cancelled_when_its_runner_looks(workshop: Workshop) -> None:
    """It is stopped, and not tried again."""
    job_id = await workshop.enqueue()
    machine = workshop.machine()
    await machine.turn()
    await workshop.database.write(records.cancel, job_id, workshop.clock.now)
    assert (await workshop.job(job_id)).state is State.RUNNING
    await machine.turn()
    await workshop.settle()
    assert (await workshop.job(job_id)).state is State.CANCELLED
    assert not workshop.working


async def test_a_job_that_fails_although_it_was_to_stop_is_not_tried_again(
    workshop: Workshop,
) -> None:
    """The wish to cancel outlives the attempt."""
    job_id = await workshop.enqueue()
    await workshop.machine().turn()
    await workshop.database.write(records.cancel, job_id, workshop.clock.now)
    await workshop.end(workshop.working[0], "fail")
    assert (await workshop.job(job_id)).state is State.FAILED


async def test_the_jobs_of_a_killed_runner_are_taken_over(workshop: Workshop) -> None:
    """When its heartbeat stood still for the limit, and not before."""
    job_id = await workshop.enqueue()
    machine, other = workshop.machine(), workshop.machine(skew=-500)
    await machine.turn()
    await other.turn()
    await workshop.kill(machine)
    await workshop.pass_time(LIMIT * 0.9, other)
    assert not workshop.working
    await workshop.pass_time(LIMIT * 0.3, other)
    await other.turn()
    assert workshop.begun == {(job_id, 1): 1, (job_id, 2): 1}
    await workshop.end(workshop.working[0])
    assert (await workshop.job(job_id)).state is State.SUCCEEDED


async def test_a_job_that_kills_its_runners_is_given_up(workshop: Workshop) -> None:
    """After as many attempts as it has."""
    job_id = await workshop.enqueue()
    for _ in range(3):
        machine = workshop.machine()
        await machine.turn()
        await workshop.kill(machine)
        await workshop.pass_time(LIMIT * 1.2, workshop.machine(settings=replace(SETTINGS, slots=0)))
    job = await workshop.job(job_id)
    assert job.state is State.FAILED
    assert "died" in job.error


async def test_a_successor_on_the_same_machine_does_not_wait(workshop: Workshop) -> None:
    """Who is certainly dead is not waited for."""
    job_id = await workshop.enqueue()
    machine = workshop.machine()
    await machine.turn()
    await workshop.kill(machine)
    await workshop.machine(predecessor=machine.runner.name).turn()
    assert workshop.begun == {(job_id, 1): 1, (job_id, 2): 1}


async def test_a_runner_that_comes_back_stops_what_was_taken_from_it(workshop: Workshop) -> None:
    """Whatever it would still write changes nothing."""
    job_id = await workshop.enqueue()
    machine, other = workshop.machine(), workshop.machine()
    await machine.turn()
    await workshop.pass_time(LIMIT * 1.3, other)
    await other.turn()
    late = workshop.work_of(machine)[0]
    late.context.log("from the grave")
    await machine.turn()
    await workshop.settle()
    assert not workshop.work_of(machine)
    assert len(workshop.work_of(other)) == 1
    await workshop.end(workshop.working[0])
    job = await workshop.job(job_id)
    assert (job.state, job.runner) == (State.SUCCEEDED, other.runner.name)
    assert "from the grave" not in await workshop.log(job_id)


async def test_an_end_that_comes_too_late_is_no_end(workshop: Workshop) -> None:
    """The new attempt decides."""
    job_id = await workshop.enqueue()
    machine, other = workshop.machine(), workshop.machine()
    await machine.turn()
    await workshop.pass_time(LIMIT * 1.3, other)
    await other.turn()
    await workshop.end(workshop.work_of(machine)[0], "fail for good")
    assert (await workshop.job(job_id)).state is State.RUNNING
    await workshop.end(workshop.work_of(other)[0])
    assert (await workshop.job(job_id)).state is State.SUCCEEDED


async def test_nobody_is_dead_because_the_database_was_away(workshop: Workshop) -> None:
    """Runners go on with what they have, and who could not look does not judge."""
    job_id = await workshop.enqueue()
    machine, other = workshop.machine(), workshop.machine()
    await machine.turn()
    await other.turn()
    for each in (machine, other):
        each.database.is_away = True
    await workshop.pass_time(LIMIT * 3, machine, other)
    for each in (other, machine):
        each.database.is_away = False
        await each.turn()
    await workshop.pass_time(LIMIT * 3, machine, other)
    assert workshop.begun == {(job_id, 1): 1}
    assert len(workshop.work_of(machine)) == 1


async def test_nothing_is_decided_by_what_a_standby_says(workshop: Workshop) -> None:
    """There heartbeats stand still, and the last claims may be missing."""
    job_id = await workshop.enqueue()
    machine, other = workshop.machine(), workshop.machine()
    await machine.turn()
    await workshop.enqueue(PAIRED)
    for each in (machine, other):
        each.database.is_stale = True
    await workshop.pass_time(LIMIT * 3, machine, other)
    assert workshop.begun == {(job_id, 1): 1}
    assert len(workshop.work_of(machine)) == 1
    for each in (machine, other):
        each.database.is_stale = False
    await workshop.pass_time(LIMIT * 3, other, machine)
    assert workshop.begun[job_id, 2] == 0
    assert len(workshop.working) == 2


async def test_a_job_may_end_while_the_database_is_away(workshop: Workshop) -> None:
    """Its end is written when it is back."""
    job_id = await workshop.enqueue()
    machine = workshop.machine()
    await machine.turn()
    machine.database.is_away = True
    await workshop.end(workshop.working[0])
    assert (await workshop.job(job_id)).state is State.RUNNING
    machine.database.is_away = False
    await workshop.settle()
    assert (await workshop.job(job_id)).state is State.SUCCEEDED
    assert workshop.begun == {(job_id, 1): 1}


@pytest.mark.parametrize("fault", ["twice", "lost", "away"])
async def test_a_lost_answer_claims_nothing_twice(workshop: Workshop, fault: str) -> None:
    """Each commit of a job's life loses its answer once, and each job runs once."""
    ids = [await workshop.enqueue(PAIRED) for _ in range(3)]
    machine = workshop.machine(settings=replace(SETTINGS, slots=2))
    for _ in range(30):
        machine.database.faults.append(fault)
        await machine.turn()
        assert len(workshop.working) <= 2
        await machine.turn()
        for work in list(workshop.working):
            machine.database.faults.append(fault)
            await workshop.end(work)
    assert {(await workshop.job(job_id)).state for job_id in ids} == {State.SUCCEEDED}
    assert workshop.begun == dict.fromkeys([(job_id, 1) for job_id in ids], 1)


async def test_a_runner_that_is_stopped_hands_its_jobs_back(workshop: Workshop) -> None:
    """At once, with what they said, and without the loss of an attempt."""
    job_id = await workshop.enqueue()
    machine, other = workshop.machine(), workshop.machine()
    await machine.turn()
    workshop.working[0].context.log("began")
    await workshop.stop(machine)
    job = await workshop.job(job_id)
    assert job.state is State.WAITING
    assert job.most_attempts - job.attempts == ALONE.most_attempts
    assert await workshop.log(job_id) == ["began"]
    await other.turn()
    assert workshop.begun == {(job_id, 1): 1, (job_id, 2): 1}


async def test_a_log_has_a_bound_and_says_so(workshop: Workshop) -> None:
    """The first thousand lines of an attempt are kept."""
    job_id = await workshop.enqueue()
    await workshop.machine().turn()
    for number in range(1500):
        workshop.working[0].context.log(f"line {number}")
    await workshop.end(workshop.working[0])
    log = await workshop.database.read(records.read_log, job_id, limit=2000)
    assert len(log) == 1001
    assert log[999].message == "line 999"
    assert log[1000].message == "500 further lines were left out"
    rest = await workshop.database.read(records.read_log, job_id, after=log[998].number)
    assert rest == log[999:]


async def test_jobs_are_forgotten_by_age_and_by_number(workshop: Workshop) -> None:
    """Only those that ended, with their logs, and each kind by itself."""
    keep = replace(SETTINGS, keep_ended=2, keep_seconds=1000)
    machine = workshop.machine(settings=keep)
    ids = [await workshop.enqueue() for _ in range(5)]
    old = await workshop.enqueue(PAIRED)
    for _ in range(6):
        await machine.turn()
        for work in list(workshop.working):
            work.context.log("done")
            await workshop.end(work)
        workshop.advance(1)
    waiting = await workshop.enqueue(PAIRED, run_at=workshop.clock.now + 10_000)
    workshop.advance(100)
    await machine.turn()
    left = [job.id for job in await workshop.database.read(records.list_jobs)]
    assert left == [waiting, old, ids[4], ids[3]]
    assert await workshop.log(ids[0]) == []
    workshop.advance(1000)
    await machine.turn()
    assert [job.id for job in await workshop.database.read(records.list_jobs)] == [waiting]


async def test_a_kind_that_a_runner_does_not_know_is_left_to_others(workshop: Workshop) -> None:
    """While versions run side by side."""
    newer = JobKind("newer", "Only a newer version knows it.")
    job_id = await workshop.enqueue(newer)
    await workshop.machine().turn()
    assert (await workshop.job(job_id)).state is State.WAITING


async def test_a_job_in_the_foreground_waits_for_its_turn(workshop: Workshop) -> None:
    """And is a job as any other: it can be seen, and keeps others of its kind waiting."""
    await workshop.enqueue()
    machine = workshop.machine()
    await machine.turn()
    front = workshop.machine(settings=replace(SETTINGS, slots=0))
    waited: list[int] = []
    new = NewJob(ALONE, most_attempts=1)
    task = asyncio.create_task(
        front.runner.run_here(new, lambda jobs: waited.extend(job.id for job in jobs))
    )
    await workshop.until(lambda: waited)
    await workshop.end(workshop.working[0])
    await workshop.until(lambda: workshop.working)
    work = workshop.working[0]
    assert work.runner == front.runner.name
    await workshop.enqueue()
    await machine.turn()
    assert workshop.working == [work]
    work.gate.set_result("succeed")
    assert (await task).state is State.SUCCEEDED


async def test_a_job_in_the_foreground_that_is_interrupted_is_cancelled(
    workshop: Workshop,
) -> None:
    """Nobody else goes on with it."""
    front = workshop.machine(settings=replace(SETTINGS, slots=0))
    new = NewJob(ALONE, most_attempts=1)
    task = asyncio.create_task(front.runner.run_here(new, lambda _jobs: None))
    await workshop.until(lambda: workshop.working)
    job_id = workshop.working[0].job.id
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await workshop.job(job_id)).state is State.CANCELLED
