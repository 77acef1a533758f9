"""Notice that a client sends nothing, at next to no cost for one that does."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class IdleWatch:
    """Ends a wait that takes longer than `seconds`.

    `asyncio.timeout` arms and disarms a timer for every wait, which costs more than the small
    pieces that bodies come in. One timer looks in instead, when the wait could be too long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._waiting_since: float | None = None
        self._has_expired = False
        self._timer = self._loop.call_later(seconds, self._look)

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Return what `awaitable` gives.

        Raises:
            TimeoutError: it took too long.

        """
        self._waiting_since = self._loop.time()
        try:
            return await awaitable
        except asyncio.CancelledError:
            if self._has_expired and self._task is not None and self._task.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            self._waiting_since = None

    def close(self) -> None:
        """Stop looking."""
        self._timer.cancel()

    def _look(self) -> None:
        now, since = self._loop.time(), self._waiting_since
        if since is not None and now - since >= self._seconds and self._task is not None:
            self._has_expired = True
            self._task.cancel()
            return
        due = self._seconds if since is None else max(since + self._seconds - now, 0.01)
        self._timer = self._loop.call_later(due, self._look)
