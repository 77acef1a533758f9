"""The time of day that the machines of a cluster compare: tokens, uploads, grace periods.

A machine's clock can be set wrong by an hour at any moment. A replica that went by it would refuse
the tokens that the others sign, and collect what was pushed a moment ago. So a replica goes by a
clock that runs evenly, and follows the machine's only as far as most machines agree with it.
"""

import asyncio
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import structlog

TOLERATED_SECONDS: Final = 5.0
"""Clocks that differ by less agree: tokens are accepted by so much earlier and later."""
_LOOK_SECONDS: Final = 1.0
_OLD_SECONDS: Final = 12.0
"""After which what was said about a clock is void: it is said every five seconds."""
_DOUBT_SECONDS: Final = 15.0
"""So long others must say that a clock is wrong which they have called right before. It is longer
than one mistaken word is valid."""
_MOST_BYTES: Final = 4096
_LOG = structlog.get_logger()

Correction = Callable[[], float | None]
"""Returns how many seconds most machines are ahead of this one's clock as it is now, within
`TOLERATED_SECONDS`; None where nobody can say."""


class Clock(Protocol):
    """A clock that somebody has to keep right."""

    def __call__(self) -> float:
        """Return seconds since 1970."""
        ...

    async def follow(self) -> None:
        """Keep it right until cancelled."""
        ...


class MachineClock:
    """The machine's own clock, where there is no other to compare it with."""

    def __call__(self) -> float:
        """Return seconds since 1970."""
        return time.time()

    async def follow(self) -> None:
        """Do nothing: whoever sets the clock is right."""


class SteadyClock:
    """The machine's clock without its jumps.

    It begins with the machine's time, and follows it where it moves slowly (NTP). Where that jumps,
    this clock runs on as before until most machines have said for a while who is right.
    """

    def __init__(
        self,
        correction: Correction,
        *,
        machine: Callable[[], float] = time.time,
        steady: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._correction = correction
        self._machine = machine
        self._steady = steady
        self._correct_by = 0.0
        self._offset = machine() - steady()
        self._is_confirmed = False
        """Whether most machines have ever said that it is right."""
        self._doubted_since: float | None = None
        self._is_held = False
        self.look()

    def __call__(self) -> float:
        """Return seconds since 1970."""
        return self._steady() + self._offset

    @property
    def ahead_seconds(self) -> float:
        """How far it is ahead of the machine's clock."""
        return self() - self._machine()

    def look(self) -> None:
        """Compare with the machine's clock and, where there is news, with the other machines'."""
        news = self._correction()
        if news is not None:
            self._correct_by = news if abs(news) > TOLERATED_SECONDS else 0.0
        now = self._steady()
        offset = self._machine() - now + self._correct_by
        is_near = abs(offset - self._offset) <= TOLERATED_SECONDS
        if is_near:
            self._doubted_since = None
            self._is_confirmed = self._is_confirmed or news is not None
            # What others say is known to a second or two, and so no reason for small steps.
            if not self._correct_by:
                self._offset = offset
        elif news is None:
            self._doubted_since = None
        else:
            self._doubt(offset, now)

    def _doubt(self, offset: float, now: float) -> None:
        """Follow what speaks against this clock, once it has done so for long enough."""
        if self._doubted_since is None:
            self._doubted_since = now
        if not self._is_confirmed or now - self._doubted_since >= _DOUBT_SECONDS:
            self._offset, self._is_confirmed, self._doubted_since = offset, True, None

    async def follow(self) -> None:
        """Look once a second until cancelled, and tell the log when the clocks part or meet."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.to_thread(self.look)
            ahead = self.ahead_seconds
            is_held = abs(ahead) > TOLERATED_SECONDS
            if is_held and not self._is_held:
                _LOG.warning("this machine's clock was set; it is not gone by", ahead=round(-ahead))
            elif self._is_held and not is_held:
                _LOG.info("this machine's clock is right again")
            self._is_held = is_held


def open_clock(file: Path | None) -> Clock:
    """Return the clock of a replica, whose agent keeps the file; without one the machine's."""
    return SteadyClock(lambda: read_correction(file)) if file is not None else MachineClock()


def read_correction(path: Path, machine: Callable[[], float] = time.time) -> float | None:
    """Return the correction that a file has (`written_correction`).

    None where there is none, or none for the clock as it is now: that was set since, or the machine
    has been off.
    """
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MOST_BYTES))
        at, ahead = float(found["at"]), float(found["others_ahead_seconds"])
        is_recent = abs(machine() - at) < _OLD_SECONDS
        return ahead if is_recent and math.isfinite(ahead) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def written_correction(at: float, others: float) -> bytes:
    """Return a file's content: at `at` by this machine's clock it was `others` by most machines."""
    return json.dumps({"at": at, "others_ahead_seconds": round(others - at, 3)}).encode()
