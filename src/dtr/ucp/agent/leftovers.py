"""What an agent that died without a word left running: remembered by pid files, and ended first.

The kernel tells a dead agent's processes to end (`orphan_signal`); but they may take their time,
and a new one of that name would find its ports taken. What PostgreSQL is to Patroni stays alone: no
agent started it, so that there is no pid file of it.
"""

import asyncio
import errno
import json
import os
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

import structlog

_LOG = structlog.get_logger()
_MAX_BYTES: Final = 4096
_NO_PROCESS: Final = frozenset({errno.ESRCH, errno.EINVAL, errno.ENOENT})
"""Nobody has the id; or a thread has, by which older kernels mean EINVAL and newer ones ENOENT."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class PidFile:
    """Names one process for certain: ids are used again, but not in one boot at one start time."""

    pid: int
    started: int
    """In the kernel's ticks since it booted."""
    boot_id: str
    orphan_signal: int
    """What it gets to end."""
    seconds: float
    """How long it may take to."""

    @classmethod
    def of(cls, pid: int, orphan_signal: signal.Signals, seconds: float) -> Self:
        """Describe a process that runs, or waits to be collected."""
        return cls(pid, _started(pid) or 0, _boot_id(), int(orphan_signal), seconds)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return what the file says; None where there is none, or nothing sensible in it."""
        try:
            with path.open("rb") as file:
                return cls(**json.loads(file.read(_MAX_BYTES)))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Write the file; it need not survive a power cut, which ends all processes."""
        path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(path, flags, 0o600), "w") as file:
            json.dump(asdict(self), file)


async def end_leftover(path: Path) -> None:
    """End the process that the pid file names, if it still runs, and its group if it must be so.

    Returns when it is gone. Other users' processes that have the id now are left alone.
    """
    left = PidFile.read(path)
    if left is None or left.boot_id != _boot_id() or left.pid in {0, 1, os.getpid()}:
        _forget(path)
        return
    try:
        descriptor = os.pidfd_open(left.pid)
    except OSError as error:
        if error.errno not in _NO_PROCESS:
            raise
        _forget(path)
        return
    try:
        # Asked once we hold the process: its id cannot become another's unseen.
        if _started(left.pid) == left.started:
            await _end(left, descriptor, path.stem)
    finally:
        os.close(descriptor)
    _forget(path)


async def _end(left: PidFile, descriptor: int, name: str) -> None:
    _LOG.warning("a process of a dead agent still runs and is ended", process=name, pid=left.pid)
    _send(descriptor, left.orphan_signal)
    if not await _has_ended(descriptor, left.seconds):
        _LOG.warning("it did not end and is killed", process=name, pid=left.pid)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(left.pid, signal.SIGKILL)
        _send(descriptor, signal.SIGKILL)
        await _has_ended(descriptor, None)


def _send(descriptor: int, number: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, number)


async def _has_ended(descriptor: int, seconds: float | None) -> bool:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(seconds):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


def _started(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()
