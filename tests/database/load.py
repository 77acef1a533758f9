"""A steady load on one database, which notes when each operation was answered, and how."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

from sqlalchemy import bindparam, select
from tests.database.settings_table import increment_once, keys, put, value_of

from dtr.database import Database, Lookup, stale_reads
from dtr.database.schema import settings

COUNTER = "counter"
BY_DIGEST = Lookup(
    select(settings.c.key).where(settings.c.key == bindparam("key")), is_immutable=True
)
BY_TAG = Lookup(select(settings.c.value).where(settings.c.key == bindparam("key")))
_PAUSE_SECONDS = 0.02


@dataclass(slots=True)
class Answers:
    """When one kind of operation was answered; `stale` are those of a standby for a primary."""

    at: list[float] = field(default_factory=list)
    stale: list[float] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def longest_gap(self, since: float, until: float) -> float:
        """Return the longest time without an answer in seconds."""
        times = [since, *(at for at in self.at if since < at < until), until]
        return max(after - before for before, after in pairwise(times))

    def first_after(self, moment: float) -> float:
        """Return how many seconds after `moment` the next answer came."""
        return min((at for at in self.at if at >= moment), default=float("inf")) - moment


class Load:
    """Writers that count, readers of a unit, look-ups by digest and by tag, until the end.

    async with Load(database) as load:
        ...
    load.check()
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_over = False
        self._tasks: list[asyncio.Task[None]] = []
        self.writes = Answers()
        self.reads = Answers()
        self.by_digest = Answers()
        self.by_tag = Answers()

    async def __aenter__(self) -> Self:
        await self._database.write(put, COUNTER, "0")
        database = self._database
        parts: list[tuple[Answers, Callable[[], Awaitable[Any]]]] = [
            (self.writes, lambda: database.write(increment_once, COUNTER)),
            (self.writes, lambda: database.write(increment_once, COUNTER)),
            (self.writes, lambda: database.write(increment_once, COUNTER)),
            (self.reads, lambda: database.read(keys)),
            (self.by_digest, lambda: database.lookup(BY_DIGEST, {"key": COUNTER})),
            (self.by_tag, lambda: database.lookup(BY_TAG, {"key": COUNTER})),
        ]
        self._tasks = [asyncio.create_task(self._run(*part)) for part in parts]
        await self.go_on(0.5)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._is_over = True
        async with asyncio.timeout(60):
            await asyncio.gather(*self._tasks)

    async def go_on(self, seconds: float) -> None:
        """Let the load run for a while."""
        await asyncio.sleep(seconds)

    async def all_answered(self, *, seconds: float = 20) -> float:
        """Return when every kind of operation has been answered once more from now on."""
        now = time.monotonic()
        kinds = (self.writes, self.reads, self.by_digest, self.by_tag)
        async with asyncio.timeout(seconds):
            while not all(each.at and each.at[-1] > now for each in kinds):
                await self.go_on(_PAUSE_SECONDS)
        return time.monotonic()

    def check(self) -> None:
        """Nothing failed, and what was acknowledged was done exactly once."""
        for each in (self.writes, self.reads, self.by_digest, self.by_tag):
            if each.errors:
                raise ExceptionGroup("operations failed", each.errors[:3])
        assert self._database.read_now(value_of, COUNTER) == len(self.writes.at)

    async def _run(self, answers: Answers, operation: Callable[[], Awaitable[Any]]) -> None:
        while not self._is_over:
            stale_reads.set(False)
            try:
                found = await operation()
            except Exception as error:  # noqa: BLE001 - it is the test's to judge
                answers.errors.append(error)
            else:
                assert answers is self.writes or found
                answers.at.append(time.monotonic())
                if stale_reads.get():
                    answers.stale.append(time.monotonic())
            await asyncio.sleep(_PAUSE_SECONDS)


async def timed(work: Coroutine[Any, Any, Any] | Awaitable[Any]) -> float:
    """Return how many seconds something takes."""
    started = time.monotonic()
    await work
    return time.monotonic() - started
