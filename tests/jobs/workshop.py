"""Runners in one process whose jobs, time and database obey a test."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from dtr.database import Database, stale_reads
from dtr.jobs import (
    Job,
    JobContext,
    JobFailedError,
    JobKind,
    NewJob,
    Runner,
    RunnerSettings,
    Schedule,
    records,
)
from dtr.jobs.execution import End
from dtr.model.errors import RegistryError, UnavailableError

LIMIT = 30.0
ALONE = JobKind("alone", "One at a time.", frozenset({"loud"}), deadline_seconds=1000)
PAIRED = JobKind("paired", "Two at a time.", most_at_once=2, deadline_seconds=1000)
KINDS = (ALONE, PAIRED)
SETTINGS = RunnerSettings(heartbeat_limit_seconds=LIMIT, poll_seconds=0.01, moment_seconds=0)


class Unreliable:
    """A database that fails as it is told, once for each fault, and else does as another one.

    `twice`: a commit's answer was lost, and the unit is run again. `lost`: the same, and nobody
    answers to the second try. `away`: the unit was never run.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.faults: list[str] = []
        self.is_away = False
        self.is_stale = False
        """Only a standby answers, and only those who read."""
        self.is_gone = False
        """Whoever asks has been killed, and never hears an answer."""
        self.after_read: Callable[[], Awaitable[None]] | None = None
        """What happens, once, between the next read and its answer."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def read(self, unit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a unit that only reads."""
        await self._meet()
        result = await self._database.read(unit, *args, **kwargs)
        if self.is_stale:
            stale_reads.set(True)
        if self.after_read is not None:
            after_read, self.after_read = self.after_read, None
            await after_read()
        return result

    async def write(self, unit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a unit, or fail."""
        fault = self.faults.pop(0) if self.faults else ""
        await self._meet(is_away=fault == "away")
        result = await self._database.write(unit, *args, **kwargs)
        if fault == "twice":
            return await self._database.write(unit, *args, **kwargs)
        if fault == "lost":
            raise UnavailableError
        return result

    write_soon = write

    async def _meet(self, *, is_away: bool = False) -> None:
        if self.is_gone:
            await asyncio.Event().wait()
        if self.is_away or is_away:
            raise UnavailableError


class Clock:
    """Time by hand."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@dataclass
class Work:
    """An attempt that a runner is at; the test says how it ends."""

    job: Job
    runner: str
    context: JobContext
    gate: asyncio.Future[str] = field(default_factory=asyncio.Future)


@dataclass
class Machine:
    """A runner, and what is around it."""

    runner: Runner
    database: Unreliable
    clock: Clock

    async def turn(self) -> float | None:
        """Have the runner look once; None where the database did not answer."""
        pause = None
        with suppress(RegistryError):
            pause = await self.runner.turn()
        for _ in range(5):
            await asyncio.sleep(0)  # what it has claimed begins
        return pause


class Workshop:
    """Machines with runners on one queue, and everything that their jobs do."""

    def __init__(self, database: Database, *, schedules: Sequence[Schedule] = ()) -> None:
        self.database = database
        self.schedules = schedules
        self.elapsed = Clock(0.0)
        self.clock = Clock(1_700_000_000.0)
        self.machines: list[Machine] = []
        self.working: list[Work] = []
        self.begun: Counter[tuple[int, int]] = Counter()
        self._names = 0

    def machine(
        self,
        *,
        skew: float = 0,
        predecessor: str | None = None,
        schedules: Sequence[Schedule] | None = None,
        settings: RunnerSettings | None = None,
    ) -> Machine:
        """Add a machine, whose clock may be wrong."""
        self._names += 1
        database, clock = Unreliable(self.database), Clock(self.clock.now + skew)
        runner = Runner(
            cast("Database", database),
            dict.fromkeys(KINDS, self._body),
            self.schedules if schedules is None else schedules,
            settings or SETTINGS,
            name=f"runner-{self._names}",
            predecessor=predecessor,
            clock=clock,
            monotonic=self.elapsed,
        )
        machine = Machine(runner, database, clock)
        self.machines.append(machine)
        return machine

    def advance(self, seconds: float) -> None:
        """Let time go by, for all clocks."""
        for clock in (self.elapsed, self.clock, *(machine.clock for machine in self.machines)):
            clock.now += seconds

    async def pass_time(self, seconds: float, *machines: Machine) -> None:
        """Let time go by while these machines, and no others, look again and again."""
        for _ in range(8):
            self.advance(seconds / 8)
            for machine in machines:
                await machine.turn()

    async def enqueue(self, kind: JobKind = ALONE, **given: Any) -> int:
        """Enqueue a job."""
        return await self.database.write(records.enqueue, NewJob(kind, **given), self.clock.now)

    async def job(self, job_id: int) -> Job:
        """Return a job that there is."""
        found = await self.database.read(records.find_job, job_id)
        assert found is not None
        return found

    async def log(self, job_id: int) -> list[str]:
        """Return the messages of a job's log."""
        return [line.message for line in await self.database.read(records.read_log, job_id)]

    async def end(self, work: Work, how: str = "succeed") -> None:
        """Let an attempt end, and see it written if the database lets it be."""
        work.gate.set_result(how)
        await self.settle()

    async def settle(self) -> None:
        """Return once no runner is at anything but the jobs that the test holds."""
        for _ in range(10_000):
            await asyncio.sleep(0.001)
            if all(self._is_settled(machine) for machine in self.machines):
                return
        raise TimeoutError("a job that was let go has not ended")

    async def until(self, condition: Callable[[], object]) -> None:
        """Return once the condition holds."""
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - many things may make it true
                await asyncio.sleep(0.001)

    async def kill(self, machine: Machine) -> None:
        """End a machine as SIGKILL does: nothing is written."""
        self.machines.remove(machine)
        await self.kill_remains(machine)

    async def kill_remains(self, machine: Machine) -> None:
        """End what a runner is at, without a word; a process that has gone is at nothing."""
        machine.database.is_gone = True
        for execution in list(machine.runner.held.values()):
            execution.end(End.LOST)
        await self.until(lambda: not self.work_of(machine))

    async def stop(self, machine: Machine) -> None:
        """End a machine as SIGTERM does."""
        self.machines.remove(machine)
        await machine.runner.stop()

    def work_of(self, machine: Machine) -> list[Work]:
        """Return what a machine is at."""
        return [work for work in self.working if work.runner == machine.runner.name]

    async def close(self) -> None:
        """End everything."""
        for machine in list(self.machines):
            await self.kill(machine)

    def _is_settled(self, machine: Machine) -> bool:
        begun = {work.job.claim for work in self.work_of(machine) if not work.gate.done()}
        held = {execution.job.claim for execution in machine.runner.held.values()}
        return begun == held or (machine.database.is_away and begun <= held)

    async def _body(self, context: JobContext) -> None:
        job = context.job
        self.begun[job.id, job.attempts] += 1
        work = Work(job, job.runner or "", context)
        self.working.append(work)
        try:
            how = await work.gate
        finally:
            self.working.remove(work)
        if how == "fail":
            raise RuntimeError("this went wrong")
        if how == "fail for good":
            raise JobFailedError("this cannot go right")
        context.progress("all is done")


async def drain(workshop: Workshop, rounds: int = 400) -> None:
    """Let every job end well, however long that takes, or fail."""
    for _ in range(rounds):
        for machine in workshop.machines:
            machine.database.faults.clear()
            machine.database.is_away = False
            await machine.turn()
        await asyncio.sleep(0)
        for work in list(workshop.working):
            work.gate.set_result("succeed")
        await workshop.settle()
        workshop.advance(5)
        if not await workshop.database.read(records.count_open):
            return
    raise AssertionError("something that is due is never done")
