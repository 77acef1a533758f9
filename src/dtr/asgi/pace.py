"""How slowly a client may send a body, checked at next to no cost for one that does not dawdle."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How long bodies may take.

    `idle_seconds` bounds one pause, `small_seconds` a small body as a whole, `whole_seconds` any
    body as a whole, and `drain_seconds` what is still read of a body after it was refused.
    `least_bytes_per_second` is measured over each `idle_seconds` that were spent waiting for the
    client, so that a disk that is slow here is never the client's fault; 0 is no such limit.
    """

    idle_seconds: float = 60
    small_seconds: float = 60
    whole_seconds: float = 6 * 3600
    least_bytes_per_second: int = 1024
    drain_seconds: float = 5


class SlowBodyError(Exception):
    """The client sends too slowly; the message is a sentence that says in which way."""


class BodyWatch:
    """Ends a wait for a client that sends nothing, or too slowly, or for too long in all.

    `asyncio.timeout` arms and disarms a timer for every wait, which costs more than the small
    pieces that bodies come in. One timer looks in instead, when the wait could be too long.
    """

    def __init__(self, limits: BodyLimits, *, whole_seconds: float) -> None:
        self.received = 0
        self._limits = limits
        self._whole_seconds = whole_seconds
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._deadline = self._loop.time() + whole_seconds
        self._waiting_since: float | None = None
        self._waited = 0.0
        self._mark = 0
        self._reason = ""
        self._timer = self._loop.call_later(self._pause(), self._look)

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Return what `awaitable` gives.

        Raises:
            SlowBodyError: it took too long, or all before it did.

        """
        self._waiting_since = since = self._loop.time()
        try:
            return await awaitable
        except asyncio.CancelledError:
            if self._reason and self._task is not None and self._task.uncancel() == 0:
                raise SlowBodyError(self._reason) from None
            raise
        finally:
            self._waited += self._loop.time() - since
            self._waiting_since = None

    def close(self) -> None:
        """Stop looking."""
        self._timer.cancel()

    def _pause(self) -> float:
        return max(0.01, min(self._limits.idle_seconds, self._whole_seconds))

    def _look(self) -> None:
        now, since = self._loop.time(), self._waiting_since
        if since is None or self._task is None:  # it is our turn, not the client's
            self._timer = self._loop.call_later(min(1.0, self._pause()), self._look)
            return
        self._reason = self._find_reason(now, since)
        if self._reason:
            self._task.cancel()
            return
        due = min(since + self._limits.idle_seconds, self._deadline) - now
        self._timer = self._loop.call_later(max(due, 0.01), self._look)

    def _find_reason(self, now: float, since: float) -> str:
        idle, least = self._limits.idle_seconds, self._limits.least_bytes_per_second
        if now - since >= idle:
            return f"no more of the body arrived for {idle:g} seconds"
        if now >= self._deadline:
            return f"the body did not end within {self._whole_seconds:g} seconds"
        waited = self._waited + now - since
        if waited < idle:
            return ""
        if self.received - self._mark < least * waited:
            return f"the body arrived at less than {least} bytes per second"
        self._mark, self._waited = self.received, since - now
        return ""
