"""How a unit of work is tried again when its database moved, froze, or chose another."""

import math
import random
import time
import uuid
from typing import Final

from dtr.database.postgresql.errors import (
    UnknownOutcomeError,
    is_conflict,
    is_full,
    is_lost,
    is_transient,
)

_SHORTEST_PAUSE_SECONDS: Final = 0.005
_LONGEST_PAUSE_SECONDS: Final = 0.4
_MOST_CONFLICTS: Final = 10
_FIRST_PATIENCE_SECONDS: Final = 4.0
_LONGEST_PATIENCE_SECONDS: Final = 60.0


class Attempts:
    """The attempts at one unit of work.

    An attempt that takes longer than its patience counts as one on a frozen connection; the next
    one's is twice as long, so that a unit which is slow by itself still gets through.
    `is_outcome_unknown` says that an earlier attempt may have been committed.

    A primary whose disk is full refuses to write; with `may_move`, another may take its place.
    """

    def __init__(self, wait_seconds: float, *, may_move: bool = False) -> None:
        self._may_move = may_move
        self._first_at = time.monotonic()
        self._deadline = self._first_at + wait_seconds
        self._give_up_at = math.inf
        self._pause = _SHORTEST_PAUSE_SECONDS
        self._conflicts = 0
        self._patience_seconds = _FIRST_PATIENCE_SECONDS
        self.unit_id = uuid.uuid4().hex
        self.is_outcome_unknown = False

    @property
    def seconds(self) -> float:
        """How long ago the first attempt began."""
        return time.monotonic() - self._first_at

    def begin(self) -> float:
        """Begin an attempt on a connection; return its patience in seconds."""
        self._give_up_at = time.monotonic() + self._patience_seconds
        return self._patience_seconds

    def pause_after(self, error: Exception) -> float | None:
        """Return how many seconds to wait before the next attempt; None: there is to be none."""
        was_frozen = is_lost(error) and time.monotonic() >= self._give_up_at
        self._give_up_at = math.inf  # the next attempt may never get a connection
        if is_conflict(error):
            self._conflicts += 1
        may_succeed = (
            is_transient(error)
            or (is_conflict(error) and self._conflicts <= _MOST_CONFLICTS)
            or (is_full(error) and self._may_move)
        )
        if not may_succeed or time.monotonic() + self._pause > self._deadline:
            return None
        if isinstance(error, UnknownOutcomeError):
            self.is_outcome_unknown = True
        if was_frozen:
            self._patience_seconds = min(self._patience_seconds * 2, _LONGEST_PATIENCE_SECONDS)
        pause = self._pause * random.uniform(0.5, 1.0)  # noqa: S311
        self._pause = min(self._pause * 2, _LONGEST_PAUSE_SECONDS)
        return pause
