"""What tests of the agent share."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from dtr.ucp.agent.keeper import Pauses
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.agent.supervisor import ProcessSupervisor

QUICK = Pauses(
    first_seconds=0.05,
    longest_seconds=0.2,
    impatient_seconds=0.05,
    steady_seconds=0.2,
    starting_seconds=0.05,
    ready_seconds=0.05,
    signal_seconds=0.5,
)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Give a temporary directory that any user may enter; those of pytest are closed."""
    with tempfile.TemporaryDirectory(prefix="ucp-") as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


@pytest.fixture
async def supervisor(open_path: Path) -> AsyncIterator[ProcessSupervisor]:
    """Give a supervisor without patience; what it runs ends with the test."""
    supervisor = ProcessSupervisor(NodeDirectory(open_path), QUICK, max_log_bytes=4096)
    yield supervisor
    await supervisor.close()


async def until(condition: Callable[[], bool], what: str, *, seconds: float = 30) -> None:
    """Return once the condition holds; the event loop goes on meanwhile."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain: {what}")
        await asyncio.sleep(0.02)
