"""Patience with an object store: what it fails at for a moment is asked again."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import TypeVar

from dtr.model.errors import UnavailableError

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0  # a client waits hardly longer than the outage


class Failure(Enum):
    """What an object store's error means."""

    TRANSIENT = auto()
    """Throttled, failing, not reached: the same request may succeed in a moment."""
    MISSING = auto()
    """There is no such object, or no such multipart upload."""
    REFUSED = auto()
    """The credentials are wrong, or may not do this."""
    LASTING = auto()
    """Nothing that time heals."""


class ObjectStoreError(Exception):
    """What an object store answered instead of what was asked for."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


def unreached(text: str) -> str:
    """Return in our words why an object store gave no answer; a library's are for its programmers.

    >>> unreached("HTTP error: error sending request: Connection refused (os error 111)")
    'no connection to it could be made: connection refused'
    """
    for mark, meaning in _UNREACHED:
        if mark in text.lower():
            return meaning
    return "no connection to it could be made"


_UNREACHED = (
    ("connection refused", "no connection to it could be made: connection refused"),
    ("dns", "its name is not known: look at the endpoint"),
    ("name or service not known", "its name is not known: look at the endpoint"),
    ("could not connect to the endpoint", "no connection to it could be made"),
    ("certificate", "its TLS certificate is not trusted by this machine"),
    ("credential", "there are no credentials for it"),
    ("timed out", "it did not answer in time"),
    ("timeout", "it did not answer in time"),
)


class Patience:
    """Asks again with growing pauses, for `seconds`, then says that storage is not available."""

    def __init__(self, seconds: float, observe: Callable[[str, float], None] | None = None) -> None:
        self.seconds = seconds
        self._observe = observe or (lambda _operation, _seconds: None)

    async def ask(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call` returns, which must be idempotent.

        Raises:
            ObjectStoreError: there is nothing under the name (`MISSING`).
            UnavailableError: it failed for good, or for too long.

        """
        started = time.monotonic()
        pause = _FIRST_PAUSE_SECONDS
        try:
            while True:
                try:
                    return await call()
                except ObjectStoreError as error:
                    if error.failure is Failure.MISSING:
                        raise
                    waited = time.monotonic() - started
                    if error.failure is not Failure.TRANSIENT or waited + pause > self.seconds:
                        raise unavailable(operation, error) from error
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - not a secret
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        finally:
            self._observe(operation, time.monotonic() - started)


def unavailable(operation: str, error: ObjectStoreError) -> UnavailableError:
    """Return what to say of a failed operation; details of the store are for operators only."""
    if error.failure is Failure.REFUSED:
        return UnavailableError(f"the object store refused to {operation}: its credentials")
    return UnavailableError(f"the object store did not {operation}")


def is_refused(error: Exception) -> bool:
    """Whether an object store said no for good: it does not do this, or not for us."""
    cause = error if isinstance(error, ObjectStoreError) else error.__cause__
    return isinstance(cause, ObjectStoreError) and cause.failure is not Failure.TRANSIENT
