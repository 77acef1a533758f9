"""How many waits for a change each caller may have: a wait is several watches, which all share."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

MOST_WAITS: Final = 3
"""An agent has one; those that it has given up may not have ended yet."""


class Waits:
    """Lets the newest few waits of each caller go on.

    The older ones end as if nothing had changed: whoever still wants to know asks again. A
    connection that its client has closed does not end a wait by itself.
    """

    def __init__(self) -> None:
        self._waits: dict[str, dict[asyncio.Task[Any], None]] = {}

    async def newest(self, caller: str, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what `work` returns; None once the caller has too many newer waits."""
        task = asyncio.create_task(work)
        waits = self._waits.setdefault(caller, {})
        waits[task] = None
        while len(waits) > MOST_WAITS:
            oldest = next(iter(waits))
            del waits[oldest]
            oldest.cancel()
        try:
            await asyncio.wait({task})
            return None if task.cancelled() else task.result()
        finally:
            task.cancel()
            waits.pop(task, None)
            if not waits and self._waits.get(caller) is waits:
                del self._waits[caller]
