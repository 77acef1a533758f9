"""Child processes end with the process that started them."""

import os
import signal
import threading
import time

_POLL_SECONDS = 0.5


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
