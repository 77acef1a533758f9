"""A collector that stops before everything it does, so that others come between."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from dtr.collect.collector import Collected, Collector, CollectSettings
from dtr.database import Database
from dtr.storage import BlobStore


class Gate:
    """Lets one step through at a time."""

    def __init__(self) -> None:
        self._tokens = asyncio.Semaphore(0)
        self._waits = asyncio.Event()
        self.next_call = ""

    async def passed(self, call: str) -> None:
        """Wait to be let through."""
        self.next_call = call
        self._waits.set()
        await self._tokens.acquire()

    async def open_once(self, task: "asyncio.Task[Any]") -> None:
        """Let one step of the task through and return when it waits again, or has ended."""
        self._waits.clear()
        self._tokens.release()
        await self.settled(task)

    async def settled(self, task: "asyncio.Task[Any]") -> None:
        """Return when the task waits, or has ended."""
        waiting = asyncio.create_task(self._waits.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()


class _Gated:
    """Passes calls on, each asynchronous one through the gate."""

    def __init__(self, target: object, gate: Gate) -> None:
        self._target = target
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)

        async def gated(*args: Any, **kwargs: Any) -> Any:
            await self._gate.passed(name)
            return await found(*args, **kwargs)

        return gated


class SteppedCollector:
    """A run of the collector, moved by whoever owns it; dropped, it is a process that died."""

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        settings: CollectSettings,
        clock: Callable[[], float],
    ) -> None:
        self._gate = Gate()
        collector = Collector(
            cast("Database", _Gated(database, self._gate)),
            cast("BlobStore", _Gated(store, self._gate)),
            settings,
            clock=clock,
        )
        self._task: asyncio.Task[Collected] = asyncio.create_task(collector.run())

    async def step(self) -> bool:
        """Do one thing; return whether there is more to do."""
        await self._gate.settled(self._task)
        if not self._task.done():
            await self._gate.open_once(self._task)
        if self._task.done():
            self._task.result()
            return False
        return True

    @property
    def is_about_to_delete(self) -> bool:
        """Whether the next thing that it does is to delete bytes."""
        return not self._task.done() and self._gate.next_call == "delete"

    async def drop(self) -> None:
        """Stop where it is."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
