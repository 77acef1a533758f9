"""What the demonstration shows: a cluster, clients that push and pull, and how both are."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.cluster.cluster import PASSWORD, USERNAME, RunningCluster
from tests.outages.load import Load
from tests.support.machines import CommandError

_STATUS_SECONDS = 2.0


@dataclass
class Step:
    """One thing that is done, as one would type it."""

    title: str
    began: float = field(default_factory=time.monotonic)
    seconds: float | None = None
    """How long it took; None while it runs."""
    note: str = ""

    @property
    def elapsed(self) -> float:
        """How long it took or has taken so far."""
        return time.monotonic() - self.began if self.seconds is None else self.seconds


class Stage:
    """The cluster and its clients, with the steps so far and the last status, for a picture."""

    def __init__(self, cluster: RunningCluster, show: Callable[[Step], None]) -> None:
        self.cluster = cluster
        self.load = Load(cluster.url, (USERNAME, PASSWORD), random.randrange(10**6))
        self.steps: list[Step] = []
        self.status = ""
        self._show = show
        self._ending = threading.Event()
        self._watching = threading.Thread(target=self._watch_status, daemon=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Time what is done, and show it when it is done."""
        step = Step(title)
        self.steps.append(step)
        yield step
        step.seconds = time.monotonic() - step.began
        self._show(step)

    def start_clients(self) -> None:
        """Push and pull through the balancer, from now to the end."""
        self.load.http = self.cluster.http  # it trusts an authority that `ucp install` makes
        self.cluster.client.call(self.load.start(pushes=2), seconds=120)

    def until_more(self, count: int) -> None:
        """Return once there were so many more pushes and pulls."""
        self.cluster.client.call(self.load.until_more(count, seconds=150), seconds=160)

    def stop_clients(self) -> None:
        """Let every client finish what it does."""
        self.cluster.client.call(self.load.stop(), seconds=150)

    def watch_status(self) -> None:
        """Keep `status` as `dtr status` shows it."""
        self._watching.start()

    def close(self) -> None:
        """Look no more."""
        self._ending.set()
        if self._watching.is_alive():
            self._watching.join(60)

    def lost(self) -> list[str]:
        """Read everything that was pushed back through every replica; say what is not there."""
        lost = []
        for name in self.cluster.replicas:
            read_back = self.load.lost(self.cluster.url_of(name))
            lost += self.cluster.client.call(read_back, seconds=300)
        return lost

    def _watch_status(self) -> None:
        while not self._ending.wait(_STATUS_SECONDS):
            try:
                self.status = self.cluster.dtr("status", "--ucp-insecure-tls", seconds=30)
            except (CommandError, TimeoutError) as error:
                self.status = str(error)
