"""Runs the registry's jobs on one machine, beside the runners of other machines."""

import asyncio
import os
import random
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from dtr.database import Database, stale_reads
from dtr.jobs import records, schedules
from dtr.jobs.execution import Body, End, Execution
from dtr.jobs.model import Claim, Job, JobKind, NewJob, Outcome, Schedule, Survey
from dtr.jobs.watch import Watch
from dtr.model.errors import RegistryError, UnavailableError
from dtr.model.timing import next_time, pause_seconds

_LOG = structlog.get_logger()
_HEARTBEATS_PER_LIMIT = 4
_PRUNE_SECONDS = 60
_LONGEST_RETRY_SECONDS = 300
_SPREAD_SECONDS = 5
_LEAVE_SECONDS = 2  # for what is cut short to end, and then for its rows to be written

Observe = Callable[[str, str, float], None]
"""Told of each attempt that ended here: its kind, its outcome, its seconds."""


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """How a runner goes about it."""

    slots: int = 4
    """Most jobs that it runs at once; none: it claims nothing."""
    poll_seconds: float = 1
    """How soon it sees what nobody told it of: a job, a request to cancel."""
    heartbeat_limit_seconds: float = 30
    """How long a runner may be silent before its jobs are taken from it."""
    keep_seconds: float = 7 * 86400
    keep_ended: int = 100
    """Most jobs of a kind that are remembered after their end."""
    moment_seconds: float = 3
    """How long jobs may go on when their runner is asked to stop."""


def runner_name(purpose: str = "") -> str:
    """Return a name that no runner ever had: machine, process, and something random."""
    parts = (socket.gethostname()[:200], purpose, str(os.getpid()), secrets.token_hex(4))
    return ":".join(filter(None, parts))


class Runner:
    """Claims jobs that are due, runs them, and watches over those of other runners.

    Any number of runners may work on one queue. A runner that is killed loses its jobs to the
    others after `heartbeat_limit_seconds`; one that was only cut off finds them gone and stops.
    While the database is away it goes on with what it has, and tries again.
    """

    def __init__(
        self,
        database: Database,
        bodies: Mapping[JobKind, Body],
        wanted: Sequence[Schedule] = (),
        settings: RunnerSettings = RunnerSettings(),
        *,
        name: str | None = None,
        predecessor: str | None = None,
        observe: Observe = lambda _kind, _outcome, _seconds: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Run jobs with `bodies`; `predecessor` is a runner that is certainly dead."""
        self.name = name or runner_name()
        self._database = database
        self._bodies = dict(bodies)
        self._kinds = {kind.name: kind for kind in bodies}
        self._wanted = wanted
        self._settings = settings
        self._predecessor = predecessor
        self._observe = observe
        self._clock = clock
        self._monotonic = monotonic
        self._heartbeat_seconds = settings.heartbeat_limit_seconds / _HEARTBEATS_PER_LIMIT
        self._watch = Watch(settings.heartbeat_limit_seconds, self._heartbeat_seconds)
        self._held: dict[int, Execution] = {}
        self._ended: set[Claim] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._is_introduced = False
        self._is_stopping = False
        self._pruned_at = float("-inf")

    @property
    def held(self) -> dict[int, Execution]:
        """The attempts that run here, by the job's id."""
        return self._held

    def wake(self) -> None:
        """Look at once: somebody said that there may be something to do."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Run jobs until `stop` is set, then give back what is not done."""
        turning = asyncio.create_task(self._turn_on(stop), name="job runner")
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([turning, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if turning.done():
            turning.result()  # nothing else would say why
        self.wake()
        # A turn is not cut short: it may be claiming. But it may also wait for the database.
        await asyncio.wait([turning], timeout=self._settings.moment_seconds)
        await self.stop()

    async def turn(self) -> float:
        """Do once what there is to do; return after how many seconds to look again.

        Raises:
            UnavailableError: the database does not answer; nothing that runs is touched.

        """
        if not self._is_introduced:
            await self._introduce()
        # An attempt that ends while we look may still look as if it ran.
        self._ended.clear()
        survey = await self._survey()
        self._attend_own(survey)
        await self._bury_dead(survey)
        await self._speak()
        started = await self._claim_due(survey)
        await self._prune()
        return 0 if started else self._pause(survey)

    async def run_here(self, new: NewJob, wait: Callable[[list[Job]], None]) -> Job:
        """Run a job in the foreground, once there is room for it, and return how it ended.

        `wait` is told what is in its way, again and again. If the caller is cancelled, so is the
        job.
        """
        while (job := await self._write_begin(new)) is None:
            wait(await self._database.read(records.running_jobs, new.kind.name))
            await self._look_after(None)
        task = self._start(job)
        try:
            while not task.done():
                await self._look_after(task)
        except asyncio.CancelledError:
            if job.id in self._held:
                self._held[job.id].end(End.CANCELLED)
            await asyncio.wait([task])
            raise
        return await self._database.read(records.find_job, job.id) or job

    async def stop(self) -> None:
        """Let running jobs end within a moment, then let other runners have them."""
        self._is_stopping = True
        await self._wait_for_tasks(self._settings.moment_seconds)
        left = list(self._held.values())
        for execution in left:
            execution.end(End.HANDED_BACK)
        await self._wait_for_tasks(_LEAVE_SECONDS)
        reports = [execution.context.report() for execution in left]
        if not reports:
            return
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._database.write(records.hand_back, reports, self._clock())
        except (RegistryError, TimeoutError) as error:
            _LOG.warning("jobs could not be handed back", jobs=len(reports), error=str(error))

    async def _turn_on(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                pause = await self.turn()
            except RegistryError as error:
                _LOG.warning("the queue of jobs cannot be reached", error=str(error))
                pause = self._settings.poll_seconds
            except Exception:  # noqa: BLE001 - the outermost loop of the runner
                _LOG.exception("a turn of the job runner failed")
                pause = self._settings.poll_seconds
            await self._sleep(pause)

    async def _introduce(self) -> None:
        now = self._clock()
        if self._predecessor is not None:
            taken = await self._database.write(records.release_runner, self._predecessor, now)
            if taken:
                _LOG.warning("jobs of a dead runner wait again", jobs=taken)
        first = {schedule.name: _first_time(schedule.timing, now) for schedule in self._wanted}
        await self._database.write(schedules.synchronise, self._wanted, now, first)
        self._is_introduced = True

    async def _survey(self) -> Survey:
        """Return what there is to do, as the primary has it.

        A standby may not have heard of our claims, nor of any heartbeat while its primary is away.
        """
        stale_reads.set(False)
        seen = await self._database.read(records.survey, list(self._kinds))
        if stale_reads.get():
            raise UnavailableError("no primary of the metadata answers")
        return seen

    def _attend_own(self, seen: Survey) -> None:
        """Stop what was cancelled or taken from us; start what we claimed without knowing it."""
        running = {job.claim: job for job in seen.running if job.runner == self.name}
        for execution in list(self._held.values()):
            job = running.pop(execution.job.claim, None)
            if job is None:
                self._lose(execution.job.id)
            elif job.is_cancel_requested:
                execution.end(End.CANCELLED)
        for claim, job in running.items():
            if claim not in self._ended:
                self._start(job)

    async def _bury_dead(self, seen: Survey) -> None:
        others = [job for job in seen.running if job.runner != self.name]
        dead = self._watch.look(others, self._monotonic())
        if dead:
            released = await self._database.write(records.release, dead, self._clock())
            if released:
                _LOG.warning("jobs of a dead runner wait again", jobs=released)

    async def _speak(self) -> None:
        """Write heartbeats that are due, and what jobs said."""
        now = self._monotonic()
        speaking = [execution for execution in self._held.values() if self._is_due(execution, now)]
        reports = [execution.context.report() for execution in speaking]
        if not reports:
            return
        lost = await self._database.write_soon(records.report, reports, self._clock())
        for execution, said in zip(speaking, reports, strict=True):
            execution.spoke_at = now
            execution.context.forget(said)
        for job_id in lost:
            self._lose(job_id)

    def _is_due(self, execution: Execution, now: float) -> bool:
        silent = now - execution.spoke_at
        return silent >= self._heartbeat_seconds or (
            execution.context.has_news and silent >= self._settings.poll_seconds
        )

    async def _claim_due(self, seen: Survey) -> bool:
        """Claim what is due and for which there is room; tell whether anything was."""
        now = self._clock()
        due = sorted((at, kind) for kind, at in seen.waiting.items() if at <= now)
        kinds = [kind for _, kind in due]
        if self._settings.slots and seen.schedule_at is not None and seen.schedule_at <= now:
            kinds += await self._database.write(records.enqueue_due, list(self._bodies), now)
        running = Counter(job.kind for job in seen.running)
        claimed = False
        for kind in map(self._kinds.__getitem__, kinds):
            while len(self._held) < self._settings.slots and running[kind.name] < kind.most_at_once:
                held = frozenset(self._held)
                job = await self._database.write(records.claim, kind, self.name, held, now)
                if job is None:
                    break
                running[job.kind] += 1
                claimed = True
                self._start(job)
        return claimed

    def _start(self, job: Job) -> asyncio.Task[None]:
        execution = Execution(job, self._bodies[self._kinds[job.kind]], self._clock)
        execution.spoke_at = self._monotonic()
        self._held[job.id] = execution
        task = asyncio.create_task(self._work(execution))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _work(self, execution: Execution) -> None:
        job, started = execution.job, self._monotonic()
        try:
            outcome = await execution.run()
            if outcome is not None:
                self._observe(job.kind, str(outcome.state), self._monotonic() - started)
                await self._finish(execution, outcome)
        except Exception:  # noqa: BLE001 - without a heartbeat the job is taken from us
            _LOG.exception("the end of a job cannot be written", job=job.id)
        finally:
            self._ended.add(job.claim)
            if not self._is_stopping:
                self._lose(job.id)
            self._wake.set()

    async def _finish(self, execution: Execution, outcome: Outcome) -> None:
        """Write how an attempt ended, however long the database is away."""
        job = execution.job
        while True:
            now = self._clock()
            said = execution.context.report()
            retry_at = now + _retry_seconds(job.attempts)
            try:
                held = await self._database.write(records.finish, said, outcome, now, retry_at)
            except RegistryError as error:
                _LOG.warning("the end of a job is not yet written", job=job.id, error=str(error))
                await asyncio.sleep(self._settings.poll_seconds)
                continue
            if not held:
                _LOG.warning("a job was taken over before it ended", job=job.id, kind=job.kind)
            self._held.pop(job.id, None)
            return

    def _lose(self, job_id: int) -> None:
        """Stop an attempt that is not ours any more, or has ended."""
        execution = self._held.pop(job_id, None)
        if execution is not None:
            execution.end(End.LOST)

    async def _prune(self) -> None:
        now, settings = self._monotonic(), self._settings
        if now - self._pruned_at < _PRUNE_SECONDS:
            return
        before = self._clock() - settings.keep_seconds
        kinds = sorted(self._kinds)
        await self._database.write(records.prune, kinds, before=before, keep=settings.keep_ended)
        self._pruned_at = now

    def _pause(self, seen: Survey) -> float:
        now = self._clock()
        times = [*seen.waiting.values()]
        if seen.schedule_at is not None:
            times.append(seen.schedule_at)
        # What is due and was not claimed has no room; whatever ends wakes us.
        pauses = [at - now for at in times if at > now]
        return min([self._settings.poll_seconds, *pauses])

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _look_after(self, task: asyncio.Task[None] | None) -> None:
        """Take a turn that survives the database's absence, then wait for a while or the task."""
        try:
            await self.turn()
        except RegistryError as error:
            _LOG.warning("the queue of jobs cannot be reached", error=str(error))
        if task is None:
            await asyncio.sleep(self._settings.poll_seconds)
        else:
            await asyncio.wait([task], timeout=self._settings.poll_seconds)

    async def _write_begin(self, new: NewJob) -> Job | None:
        return await self._database.write(records.begin, new, self.name, self._clock())

    async def _wait_for_tasks(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)


def _first_time(timing: str, now: float) -> float:
    """Return when a new schedule is due: soon, but spread, so that a start is no burst of work."""
    pause = pause_seconds(timing)
    if pause is None:
        return next_time(timing, now)
    return now + min(pause, _SPREAD_SECONDS) * random.random()  # noqa: S311


def _retry_seconds(attempts: int) -> float:
    """Return how long to wait after a failure: a second, twice as long each time, and jitter."""
    longest = min(2.0 ** (attempts - 1), _LONGEST_RETRY_SECONDS)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311
