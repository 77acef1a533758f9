"""Ctrl-C and other wishes that it end: heard once, and never where that would do harm."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, Self

_NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Raises KeyboardInterrupt in the main thread at the first wish; later ones are ignored.

    Whoever takes everything away can so be sure to finish, and so can the programs that it runs.
    """

    def __init__(self) -> None:
        self.has_come = False
        self._is_held = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._come) for number in _NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def refuse(self) -> None:
        """Listen no more: from now on everything is taken away."""
        for number in _NUMBERS:
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let what must not be left half done be finished first."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            if self.has_come:
                raise KeyboardInterrupt

    def _come(self, _number: int, _frame: FrameType | None) -> None:
        self.refuse()
        self.has_come = True
        if not self._is_held:
            raise KeyboardInterrupt
