"""How much each caller may write into etcd, whose room all share; in memory, for one controller."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dtr.ucp.api import ApiError

_MAX_CALLERS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Rate:
    """So much at once, and so much a second after that."""

    burst: float
    per_second: float


@dataclass(slots=True)
class _Account:
    left: float
    at: float


class WriteBudget:
    """A token bucket for each caller.

    The counts are this process's own: with several controllers a caller has as many times as much,
    which is still little. What a caller was refused costs nothing.
    """

    def __init__(self, rate: Rate, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._monotonic = monotonic
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def spend(self, caller: str, cost: float) -> None:
        """Let a caller write so much, or not yet.

        Raises:
            ApiError: 429, with when to come back.

        """
        now = self._monotonic()
        account = self._accounts.pop(caller, None) or _Account(self._rate.burst, now)
        earned = (now - account.at) * self._rate.per_second
        account.left = min(self._rate.burst, account.left + earned)
        account.at = now
        self._accounts[caller] = account
        while len(self._accounts) > _MAX_CALLERS:
            self._accounts.popitem(last=False)
        if cost > account.left:
            wait = (cost - account.left) / self._rate.per_second
            raise ApiError(
                429, "TOO_MANY_REQUESTS", f"Too many requests at once. Wait {wait:.0f} s, then try."
            )
        account.left -= cost
