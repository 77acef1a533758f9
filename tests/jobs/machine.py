"""Runners, clocks, crashes and lost answers in any order, against what a queue promises."""

import asyncio
from collections.abc import Awaitable
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import delete
from tests.jobs.workshop import ALONE, KINDS, LIMIT, PAIRED, Machine, Workshop, drain

from dtr.database import Database, Writer
from dtr.database.schema import jobs, schedules
from dtr.jobs import Job, Schedule, State, every, records
from dtr.jobs.execution import UNEXPECTED

T = TypeVar("T")

MACHINES = 3
TIDY = Schedule("tidy", ALONE.name, every(50))
FAULTS = ("twice", "lost", "away")
ENDS = ("succeed", "succeed", "fail", "fail for good")
LIMITS = {kind.name: kind.most_at_once for kind in KINDS}

picks = st.integers(0, 1000)
machines = st.integers(0, MACHINES - 1)


class Queue(RuleBasedStateMachine):
    """One queue and three machines; everything that may befall them is a rule."""

    database: ClassVar[Database]

    @initialize(skews=st.lists(st.integers(-300, 300), min_size=MACHINES, max_size=MACHINES))
    def begin(self, skews: list[int]) -> None:
        """Start with an empty queue, and machines whose clocks differ."""
        self.runner = asyncio.Runner()
        self.database.write_now(_empty)
        self.workshop = Workshop(self.database, schedules=[TIDY])
        self.skews = skews
        self.machines = [self.workshop.machine(skew=skew) for skew in skews]
        self.asked: list[int] = []
        self.cancelled: set[int] = set()
        self.ended: dict[int, Job] = {}

    def teardown(self) -> None:
        """When all is well again, everything that was asked for comes to an end."""
        if not hasattr(self, "runner"):
            return
        try:
            self.run(self._mend())
            self.run(drain(self.workshop))
            for job_id in self.asked:
                self._check_end(self.run(self.workshop.job(job_id)))
            self.run(self.workshop.close())
        finally:
            self.runner.close()

    def run(self, awaitable: Awaitable[T]) -> T:
        """Wait for something."""

        async def wait() -> T:
            return await awaitable

        return self.runner.run(wait())

    # What people do.

    @rule(kind=st.sampled_from((ALONE, PAIRED)))
    def ask(self, kind: Any) -> None:
        """Enqueue a job."""
        self.asked.append(self.run(self.workshop.enqueue(kind)))

    @precondition(lambda self: self.asked)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        """Cancel a job, in whatever state it is."""
        job_id = self.asked[pick % len(self.asked)]
        self.cancelled.add(job_id)
        self.run(self.database.write(records.cancel, job_id, self.workshop.clock.now))

    # What machines do.

    @rule(number=machines)
    def turn(self, number: int) -> None:
        """Have a runner look; what was taken from it, it leaves."""
        machine = self.machines[number]
        if self.run(machine.turn()) is not None:
            self.run(self.workshop.settle())
            self._check_claims(machine)

    @precondition(lambda self: self.workshop.working)
    @rule(pick=picks, how=st.sampled_from(ENDS), fault=st.sampled_from(("", *FAULTS)))
    def end(self, pick: int, how: str, fault: str) -> None:
        """Let an attempt end; the answer to that may be lost."""
        work = self.workshop.working[pick % len(self.workshop.working)]
        for machine in self.machines:
            if fault and machine.runner.name == work.runner:
                machine.database.faults.append(fault)
        self.run(self.workshop.end(work, how))

    # What befalls them.

    @rule(number=machines, fault=st.sampled_from(FAULTS))
    def lose_an_answer(self, number: int, fault: str) -> None:
        """Have the next write fail, or seem to."""
        self.machines[number].database.faults.append(fault)

    @rule(number=machines, is_away=st.booleans())
    def cut_off(self, number: int, is_away: bool) -> None:  # noqa: FBT001
        """Take the database from a machine, or give it back."""
        self.machines[number].database.is_away = is_away

    @rule(number=machines, is_known=st.booleans())
    def kill(self, number: int, is_known: bool) -> None:  # noqa: FBT001
        """Kill a runner; its successor may know of it."""
        before = self.machines[number]
        self.run(self.workshop.kill(before))
        self._replace(number, predecessor=before.runner.name if is_known else None)

    @rule(number=machines)
    def stop(self, number: int) -> None:
        """Stop a runner as a restart does."""
        before = self.machines[number]
        self.run(self.workshop.stop(before))
        self.run(self.workshop.kill_remains(before))
        self._replace(number)

    @rule(seconds=st.sampled_from((1, 10, LIMIT * 2)), who=st.sets(machines))
    def pass_time(self, seconds: float, who: set[int]) -> None:
        """Let time go by; machines that are not among `who` are frozen meanwhile."""
        awake = [self.machines[number] for number in sorted(who)]
        self.run(self.workshop.pass_time(seconds, *awake))
        self.run(self.workshop.settle())

    # What always holds.

    @invariant()
    def no_attempt_begins_twice(self) -> None:
        """Whatever runners believe."""
        assert all(count == 1 for count in self.workshop.begun.values()), self.workshop.begun

    @invariant()
    def no_more_run_than_may(self) -> None:
        """And of a schedule one job is open."""
        if not hasattr(self, "runner"):
            return
        known = self.database.read_now(records.list_jobs, limit=1000)
        for kind, most in LIMITS.items():
            running = [job for job in known if job.kind == kind and job.state is State.RUNNING]
            assert len(running) <= most, running
        assert sum(job.schedule is not None and not job.state.is_end for job in known) <= 1

    @invariant()
    def an_end_is_an_end(self) -> None:
        """Nothing changes a job that has ended."""
        if not hasattr(self, "runner"):
            return
        for job in self.database.read_now(records.list_jobs, limit=1000):
            if job.state.is_end:
                assert self.ended.setdefault(job.id, job) == job

    def _replace(self, number: int, predecessor: str | None = None) -> None:
        self.machines[number] = self.workshop.machine(
            skew=self.skews[number], predecessor=predecessor
        )

    def _check_claims(self, machine: Machine) -> None:
        """Compare what a runner that has looked is at with what the metadata say it is at."""
        claims = {work.job.claim for work in self.workshop.work_of(machine)}
        known = self.database.read_now(records.list_jobs, limit=1000)
        held = {job.claim for job in known if job.state is State.RUNNING}
        ours = {claim for claim in held if claim.runner == machine.runner.name}
        assert claims == ours, (claims, ours)

    def _check_end(self, job: Job) -> None:
        assert job.state.is_end, job
        if job.state is State.CANCELLED:
            assert job.id in self.cancelled, job
        if job.state is State.FAILED and job.error == UNEXPECTED:
            assert job.attempts == job.most_attempts or job.id in self.cancelled, job

    async def _mend(self) -> None:
        for machine in self.machines:
            machine.database.is_away = False
            machine.database.faults.clear()


def _empty(writer: Writer) -> None:
    for table in (jobs, schedules):
        writer.execute(delete(table))
