"""Run jobs again and again, each after its own pause."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import structlog

_LOG = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Job:
    """A named, idempotent piece of work and the pause between two runs of it."""

    name: str
    every_seconds: float
    run: Callable[[], Awaitable[object]]


class JobRunner:
    """Runs every job soon after the start and then at its pace, until `stop` is set.

    A job that fails is logged and tried again next time; it does not stop the others.
    """

    def __init__(self, jobs: Iterable[Job], stop: asyncio.Event) -> None:
        self._jobs = tuple(jobs)
        self._stop = stop

    async def run(self) -> None:
        """Run until stopped."""
        async with asyncio.TaskGroup() as tasks:
            for job in self._jobs:
                tasks.create_task(self._repeat(job), name=job.name)

    async def _repeat(self, job: Job) -> None:
        # The first runs are spread, so that a start is not a burst of work.
        pause = min(job.every_seconds, 5) * random.random()  # noqa: S311
        while not await self._stopped_within(pause):
            await self._once(job)
            pause = job.every_seconds

    async def _once(self, job: Job) -> None:
        try:
            await job.run()
        except Exception:  # noqa: BLE001 - the outermost loop of a job
            _LOG.exception("job failed", job=job.name)

    async def _stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        return self._stop.is_set()
