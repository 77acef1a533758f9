"""Work that is too long for an event loop, done on a thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dtr.model.documents import LARGE_BYTES

T = TypeVar("T")

# One for a process: documents wait for each other, and a request that does not parse any waits for
# one of them at most, for as long as a thread keeps the interpreter.
_apart = ThreadPoolExecutor(1, thread_name_prefix="documents")


async def away_from_loop(size: int, work: Callable[[], T]) -> T:
    """Return what `work` on a document of `size` bytes returns; done on a thread if that is large.

    Raises:
        Exception: whatever `work` raises.

    """
    if size <= LARGE_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_apart, work)
