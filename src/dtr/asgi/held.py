"""How much of bodies that are read whole a process holds at once, so that nobody can fill it."""

from collections import Counter
from typing import Final

from dtr.model.errors import TooManyRequestsError, UnavailableError

FREE_BYTES: Final = 64 << 10
"""A body of no more is not counted: nearly all manifests are far smaller, and pass in any case."""
_RETRY_SECONDS: Final = 2.0


class HeldBytes:
    """Counts large bodies while their requests last; one account has a part of the whole.

    A client may take a minute for a body, and waits for others' large ones to be parsed.
    """

    def __init__(self, most: int = 256 << 20, most_of_one: int = 64 << 20) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._of: Counter[int] = Counter()

    def take(self, account_id: int, count: int) -> None:
        """Count so many bytes more.

        Raises:
            TooManyRequestsError: the account has its part already; nothing was counted.
            UnavailableError: all together have everything.

        """
        if self._of[account_id] + count > self._most_of_one:
            message = "this account sends too many large manifests at the same time; try again"
            raise TooManyRequestsError(message, retry_after_seconds=_RETRY_SECONDS)
        if self._of.total() + count > self._most:
            raise UnavailableError("too many large manifests are sent at the same time; try again")
        self._of[account_id] += count

    def release(self, account_id: int, count: int) -> None:
        """Count so many bytes less."""
        self._of[account_id] -= count
        if self._of[account_id] <= 0:
            del self._of[account_id]
