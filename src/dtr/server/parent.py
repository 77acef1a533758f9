"""Child processes: they heed signals from their first moment, and end with their parent."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_POLL_SECONDS = 0.5
_LAST_SECONDS = 5.0
STOP_LISTENING = signal.SIGUSR1
"""What a parent sends to a web worker that another one has taken the place of."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, STOP_LISTENING)


@contextmanager
def held_signals() -> Iterator[None]:
    """Hold signals back while a child is forked; it takes them with `heed_signals`.

    A child begins with its parent's handlers, which do nothing in it: what came before it is ready
    to end would be lost, and whoever sent SIGTERM would wait for it in vain.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_signals() -> None:
    """Take, in a child, the signals that came before this, and all that come from here on."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # that one is for the parent
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def end_at_signals() -> None:
    """End at once, in a child, when a signal came before, or comes until there is a handler."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    heed_signals()


def leave_with_parent() -> None:
    """End this process soon after its parent, however the parent ended.

    A worker that outlives a killed parent would go on serving unseen and hold the data directory.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_POLL_SECONDS * 4)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def end_in_time(seconds: float = _LAST_SECONDS) -> None:
    """End this process as SIGTERM does, and after `seconds` whatever is in flight."""
    os.kill(os.getpid(), signal.SIGTERM)

    def end() -> None:
        time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=end, name="end in time", daemon=True).start()
