"""One attempt of a job, in this process."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum, auto
from typing import Any, Final

import structlog

from dtr.jobs.model import Job, JobFailedError, Line, Outcome, Report, State
from dtr.model.errors import RegistryError
from dtr.model.failures import reason_of

UNEXPECTED: Final = "an error that nobody expected; the server's log has its traceback"
"""What people get of an exception of a library."""

_LOG = structlog.get_logger()
_MOST_LINES = 1000
_LINES_OF_ATTEMPT = 10_000


class JobContext:
    """What the body of a job is given. Speaking costs nothing: lines are gathered and written."""

    def __init__(self, job: Job, clock: Callable[[], float]) -> None:
        self.job = job
        self._clock = clock
        self._progress = ""
        self._lines: list[Line] = []
        self._count = 0
        self._reported = ""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What was asked for."""
        return self.job.parameters

    def progress(self, sentence: str) -> None:
        """Say how far the work is; at the end, what came of it."""
        self._progress = sentence

    def log(self, message: str, level: str = "info") -> None:
        """Add a line to the job's log; after a thousand in an attempt they are only counted."""
        self._count += 1
        if self._count <= _MOST_LINES:
            self._add(message, level)

    def close(self) -> None:
        """Say how many lines there was no room for."""
        if self._count > _MOST_LINES:
            self._add(f"{self._count - _MOST_LINES} further lines were left out", "warning")

    @property
    def has_news(self) -> bool:
        """Whether something was said that nobody has heard."""
        return bool(self._lines) or self._progress != self._reported

    def report(self) -> Report:
        """Return what was said and is not yet known to be written."""
        return Report(self.job.claim, self._progress, tuple(self._lines))

    def forget(self, written: Report) -> None:
        """Drop what is written."""
        self._reported = written.progress
        del self._lines[: len(written.lines)]

    def _add(self, message: str, level: str) -> None:
        # Numbers follow from the attempt alone, so that a line is written once, also by a retry.
        number = self.job.attempts * _LINES_OF_ATTEMPT + min(self._count, _MOST_LINES + 1)
        self._lines.append(Line(number, self._clock(), level, message))


Body = Callable[[JobContext], Awaitable[None]]


class End(Enum):
    """Why an attempt is cut short."""

    CANCELLED = auto()
    HANDED_BACK = auto()
    LOST = auto()


class Execution:
    """An attempt that runs; `end` cuts it short."""

    def __init__(self, job: Job, body: Body, clock: Callable[[], float]) -> None:
        self.job = job
        self.context = JobContext(job, clock)
        self.spoke_at = float("-inf")
        self._body = body
        self._end: End | None = None
        self._task: asyncio.Task[Outcome] | None = None

    async def run(self) -> Outcome | None:
        """Return how the attempt ended; None if somebody else is to run the job."""
        self._task = asyncio.create_task(self._attempt(), name=f"job {self.job.id}")
        await asyncio.wait([self._task])
        self.context.close()
        if not self._task.cancelled():
            return self._task.result()
        return Outcome(State.CANCELLED) if self._end is End.CANCELLED else None

    def end(self, why: End) -> None:
        """Cut the attempt short; the first reason holds, but a lost claim beats all others."""
        if self._end is None or why is End.LOST:
            self._end = why
            if self._task is not None:
                self._task.cancel()

    async def _attempt(self) -> Outcome:
        job = self.job
        try:
            async with asyncio.timeout(job.deadline_seconds) as deadline:
                await self._body(self.context)
        except JobFailedError as error:
            return Outcome(State.FAILED, str(error))
        except TimeoutError as error:
            if deadline.expired():
                message = f"it took longer than its deadline, {job.deadline_seconds:g} s"
                return Outcome(State.FAILED, message, may_retry=True)
            return self._failure(error)
        except Exception as error:  # noqa: BLE001 - the outermost loop of a job
            return self._failure(error)
        return Outcome(State.SUCCEEDED)

    def _failure(self, error: Exception) -> Outcome:
        if isinstance(error, RegistryError):  # it says in a sentence what happened
            _LOG.warning("job failed", job=self.job.id, kind=self.job.kind, error=str(error))
        else:
            _LOG.error("job failed", job=self.job.id, kind=self.job.kind, exc_info=error)
        sentence = _why(error)
        self.context.log(sentence, "error")
        return Outcome(State.FAILED, sentence, may_retry=True)


def _why(error: Exception) -> str:
    if isinstance(error, RegistryError):
        return str(error)
    return reason_of(error, UNEXPECTED)
