"""The fence: PostgreSQL must not go on as primary where nobody holds its leader lock any more.

Patroni detaches PostgreSQL on purpose, so that a restart of Patroni is no outage. But a Patroni
that stays dead leaves a primary behind that accepts connections and, until its standbys have turned
away, commits (`zombie`). The agent, which outlives Patroni, therefore ends PostgreSQL once
Patroni's `/liveness` has been silent for 10 seconds. It asks for an answer and not for a process:
a Patroni that crashes in a loop, or is frozen, has a process.

A standby is left alone: it cannot become primary without Patroni, a new primary does not count on
what it alone has acknowledged unless it is asked through Patroni, and it still answers reads.
"""

import os
import select
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

SILENCE_SECONDS: Final = 10.0
"""Well within the leader lock's 20 seconds, and enough for Patroni to be started again."""

_PROGRAM: Final = "postgres"
_LONGEST_LOOK_SECONDS: Final = 4.0  # one look, its time limit included, and the pause before it


class Fence:
    """Decides when Patroni has been silent for too long; it is told the time and does nothing.

    Only silence that was listened to counts, so that a machine that was frozen as a whole gives its
    Patroni the time to answer after it thaws.

    >>> fence = Fence(silence_seconds=3)
    >>> [fence.observe(now=now, is_live=False) for now in (100, 101, 102, 103)]
    [False, False, False, True]
    """

    def __init__(self, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._silence_seconds = silence_seconds
        self._looked_at: float | None = None
        self._silent_seconds = 0.0

    def observe(self, now: float, *, is_live: bool) -> bool:
        """Note whether Patroni answers at this time (monotonic); return whether to end PostgreSQL.

        It is never so earlier than a whole silence after the first look: Patroni may be starting.
        """
        passed = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        self._silent_seconds = (
            0.0 if is_live else self._silent_seconds + min(passed, _LONGEST_LOOK_SECONDS)
        )
        return self._silent_seconds >= self._silence_seconds


@dataclass(frozen=True, slots=True)
class Postmaster:
    """The main process of a running PostgreSQL, held by a descriptor: no other can be meant."""

    pid: int
    is_standby: bool
    """Whether it follows a primary and was not promoted; one that just recovers is none."""
    descriptor: int

    @classmethod
    def find(cls, data: Path) -> Self | None:
        """Return PostgreSQL of this data directory, if it runs. Close it after use.

        `postmaster.pid` may be left over from before a crash, and its number may be anybody's by
        now: the process counts only if it is a `postgres` that works in this very directory.
        """
        pid = _recorded(data / "postmaster.pid")
        if pid is None:
            return None
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return None
        if not _is_postmaster(pid, data):
            os.close(descriptor)
            return None
        return cls(pid, (data / "standby.signal").exists(), descriptor)

    def send(self, number: signal.Signals) -> None:
        """Send a signal: SIGQUIT ends PostgreSQL at once, SIGINT after a checkpoint."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, number)

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self.descriptor)


def end_primary(data: Path) -> int | None:
    """End PostgreSQL at once if it runs here and is no standby; return its process id then."""
    postmaster = Postmaster.find(data)
    if postmaster is None:
        return None
    try:
        if postmaster.is_standby:
            return None
        postmaster.send(signal.SIGQUIT)
        return postmaster.pid
    finally:
        postmaster.close()


def _recorded(path: Path) -> int | None:
    try:
        first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        return None
    # A single-user PostgreSQL writes a negative number.
    return int(first) if first.isascii() and first.isdigit() and int(first) > 1 else None


def _is_postmaster(pid: int, data: Path) -> bool:
    process = Path(f"/proc/{pid}")
    try:
        program = (process / "exe").readlink().name.partition(" ")[0]  # "postgres (deleted)"
        return program == _PROGRAM and (process / "cwd").samefile(data)
    except OSError:
        return False
