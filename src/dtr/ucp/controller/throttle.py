"""Slow down who guesses passwords at this controller."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from dtr.ucp.api import ApiError

FAILURES_BEFORE_DELAY: Final = 5
FIRST_DELAY_SECONDS: Final = 1.0
LONGEST_DELAY_SECONDS: Final = 60.0

_ADDRESS_FACTOR: Final = 10
_MAX_SUBJECTS: Final = 10_000
_MAX_NAME: Final = 128


@dataclass(slots=True)
class _Failures:
    count: int
    last_at: float


class LoginThrottle:
    """Counts failed logins by name and address, and by address alone.

    A name alone is never slowed down, or anybody could lock out the administrator. The counts are
    this process's own: with several controllers somebody has as many times as many guesses, which
    is as good as none against a password.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def turn(self, name: str, address: str) -> asyncio.Lock:
        """Return the lock under which logins of one name at one address are tried one by one.

        Guesses that are sent together would else all be tried before the first is counted.
        """
        return self._turns.setdefault(_pair(name, address), asyncio.Lock())

    def check(self, name: str, address: str, now: float) -> None:
        """Let a login pass, or not yet.

        Raises:
            ApiError: 429, and when to come back.

        """
        wait = max(
            self._wait(_pair(name, address), FAILURES_BEFORE_DELAY, now),
            self._wait(address, FAILURES_BEFORE_DELAY * _ADDRESS_FACTOR, now),
        )
        if wait > 0:
            message = f"Too many logins failed. Wait {wait:.0f} s before the next."
            raise ApiError(429, "TOO_MANY_REQUESTS", message)

    def failed(self, name: str, address: str, now: float) -> None:
        """Count a failed login."""
        for subject in (_pair(name, address), address):
            found = self._failures.pop(subject, _Failures(0, now))
            self._failures[subject] = _Failures(found.count + 1, now)
        while len(self._failures) > _MAX_SUBJECTS:
            self._failures.popitem(last=False)

    def succeeded(self, name: str, address: str) -> None:
        """Forget the failures of this name at this address."""
        self._failures.pop(_pair(name, address), None)

    def _wait(self, subject: str, allowed: int, now: float) -> float:
        found = self._failures.get(subject)
        if found is None or found.count < allowed:
            return 0
        exponent = min(found.count - allowed, 30)
        delay = min(FIRST_DELAY_SECONDS * 2.0**exponent, LONGEST_DELAY_SECONDS)
        # Never longer than the delay, also where the clock was set back meanwhile.
        return min(delay, found.last_at + delay - now)


def _pair(name: str, address: str) -> str:
    return f"{name[:_MAX_NAME]}@{address}"
