"""Passwords that were wrong: a client that repeats one has made one mistake, and learns nothing.

A job that retries an old password for ever would otherwise keep the right one of its account from
the same address waiting. Kept in the memory of this process, as a keyed hash with a key of its own:
of a guess at one address, so that nobody learns what was tried elsewhere.
"""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from dtr.accounts.throttle import Attempt

_MOST: Final = 10_000


class WrongGuesses:
    """The last wrong guesses, and of which state of the account each was one.

    A repeated one is refused without a count and without the work of verifying it, so that it
    opens no way to more guesses, nor to more of that work. With a new password of the account, or a
    new state, it is a guess again.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._secret = secrets.token_bytes(32)
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()

    async def is_repeated(
        self, attempt: Attempt, password: str, state: Callable[[], Awaitable[str]]
    ) -> bool:
        """Tell whether this was tried in this `state`, which is asked for only if it was tried."""
        guess = self._guess(attempt, password)
        kept = self._kept.get(guess)
        if kept is None or not hmac.compare_digest(kept, self._digest(await state())):
            return False
        if guess in self._kept:
            self._kept.move_to_end(guess)
        return True

    def add(self, attempt: Attempt, password: str, state: str) -> None:
        """Keep a guess that was wrong in this state; the one that was not tried longest goes."""
        guess = self._guess(attempt, password)
        self._kept[guess] = self._digest(state)
        self._kept.move_to_end(guess)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def _guess(self, attempt: Attempt, password: str) -> bytes:
        return self._digest(f"{attempt.pair}\0{password}")

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256)
