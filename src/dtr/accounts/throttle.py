"""Slow down who guesses passwords, on every process together."""

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

from dtr.accounts import records
from dtr.accounts.settings import AuthSettings
from dtr.database import Database
from dtr.model.errors import TooManyRequestsError

_ADDRESS_FACTOR = 10
"""Many people may share an address: it is slowed down after ten times as many failures."""


class LoginThrottle:
    """Counts failed logins by name and address, and by address alone.

    A name alone is never slowed down, or anybody could lock anybody out.
    """

    def __init__(
        self, database: Database, settings: AuthSettings, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def turn(self, name: str, client: str) -> asyncio.Lock:
        """Return the lock under which logins of one name at one address are tried one by one.

        Guesses that are sent together would else all be tried before the first is counted.
        """
        pair = _pair(name, client)
        lock = self._turns.get(pair)
        if lock is None:
            lock = self._turns[pair] = asyncio.Lock()
        return lock

    async def check(self, name: str, client: str) -> None:
        """Let a login pass, or not yet.

        Raises:
            TooManyRequestsError: and when to come back.

        """
        wait = max(
            await self._wait(_pair(name, client), self._settings.failed_logins_before_delay),
            await self._wait(client, self._settings.failed_logins_before_delay * _ADDRESS_FACTOR),
        )
        if wait > 0:
            message = "too many logins failed; wait before the next"
            raise TooManyRequestsError(message, retry_after_seconds=wait)

    async def failed(self, name: str, client: str) -> None:
        """Count a failed login."""
        now = self._clock()
        await self._database.write(records.record_failure, (_pair(name, client), client), now)

    async def succeeded(self, name: str, client: str) -> None:
        """Forget the failures of this name at this address."""
        pair = _pair(name, client)
        if await self._database.lookup(records.FIND_FAILURES, {"subject": pair}) is not None:
            await self._database.write(records.forget_failures, pair)

    async def _wait(self, subject: str, allowed: int) -> float:
        row = await self._database.lookup(records.FIND_FAILURES, {"subject": subject})
        if row is None or row[0] < allowed:
            return 0
        failures, last_at = int(row[0]), float(row[1])
        exponent = min(failures - allowed, 30)
        delay: float = min(
            self._settings.failed_login_delay_seconds * 2**exponent,
            self._settings.failed_login_delay_max_seconds,
        )
        # Never longer than the delay, also where the clock was set back meanwhile.
        return min(delay, last_at + delay - self._clock())


def _pair(name: str, client: str) -> str:
    storable = name[:128].replace("\0", "\N{REPLACEMENT CHARACTER}")  # PostgreSQL's text has no NUL
    return f"{storable}@{client}"
