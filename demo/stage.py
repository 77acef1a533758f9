"""The cluster of the demonstration and its clients, and what there is to see of both."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.cluster import CLIENT, PASSWORD, USERNAME, RunningCluster
from tests.outages.docker import Record
from tests.outages.load import Load
from tests.support.machines import Machine
from tests.support.namespaces import enter_network

from demo.interrupts import Interrupts
from demo.scene import MINUTE, ClientsSeen, Scene, Second, StepSeen, machines_seen
from dtr.ucp.client import UcpClient, UcpError

_STATUS_SECONDS = 1.0
_END_SECONDS = 10.0


@dataclass
class Step:
    """One thing that is done, as one would type it."""

    title: str
    began: float = field(default_factory=time.monotonic)
    seconds: float | None = None
    """How long it took; None while it runs."""
    note: str = ""
    is_failed: bool = False

    def seen(self) -> StepSeen:
        """Give it as it is now."""
        elapsed = time.monotonic() - self.began if self.seconds is None else self.seconds
        return StepSeen(self.title, elapsed, self.seconds is None, self.note, self.is_failed)


@dataclass
class _Power:
    is_on: bool = True
    changed_at: float | None = None


class Stage:
    """What the story is told on: it times each step, and watches the cluster and its clients."""

    def __init__(
        self,
        cluster: RunningCluster,
        interrupts: Interrupts,
        show: Callable[[StepSeen], None],
        keep: Callable[[Scene], None],
    ) -> None:
        """`show` is given each step that has ended, `keep` every second what there is to see."""
        self.cluster = cluster
        self.load = Load("", (USERNAME, PASSWORD), random.randrange(10**6))
        self.steps: list[Step] = []
        self.message = ""
        self._interrupts = interrupts
        self._show, self._keep = show, keep
        self._began = time.monotonic()
        self._machines: list[Machine] = []
        self._power: dict[str, _Power] = {}
        self._status: Mapping[str, Any] = {}
        self._silence = ""
        self._minutes = {name: deque[Second](maxlen=MINUTE) for name in ("pushes", "pulls")}
        self._has_clients = False
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []

    # --- doing -----------------------------------------------------------------------------------

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Time what is done, and show it when it has ended, however it ended."""
        step = Step(title)
        self.steps.append(step)
        try:
            yield step
        except BaseException:
            step.is_failed = True
            raise
        finally:
            step.seconds = time.monotonic() - step.began
            self._show(step.seen())

    def open(self) -> None:
        """Begin to watch: the machines are there."""
        self._machines = self.cluster.nodes
        self._power = {machine.name: _Power() for machine in self._machines}
        self._begin(self._watch_clients)

    def switch_off(self, machine: Machine) -> None:
        """Take a machine's power away."""
        with self._interrupts.held():
            machine.power_off()

    def switch_on(self, machine: Machine) -> None:
        """Give it back."""
        with self._interrupts.held():
            machine.start()

    def start_clients(self) -> None:
        """Push and pull through the balancer, from now to the end."""
        self.load.url = self.cluster.url
        self.load.http = self.cluster.http  # it trusts an authority that `ucp install` makes
        self._has_clients = True
        self.cluster.client.call(self.load.start(pushes=2), seconds=120)

    def until_more(self, count: int) -> None:
        """Return once there were so many more pushes and pulls."""
        self.cluster.client.call(self.load.until_more(count, seconds=150), seconds=160)

    def until_later(self, seconds: float) -> None:
        """Let whoever watches look for a while."""
        self._ending.wait(seconds)

    def stop_clients(self) -> None:
        """Let every client finish what it does."""
        self.cluster.client.call(self.load.stop(), seconds=150)
        self._has_clients = False

    def watch_status(self) -> None:
        """Ask the control plane every second from now on."""
        self._begin(self._watch_status)

    def close(self) -> None:
        """Look no more."""
        self._ending.set()
        for thread in self._threads:
            thread.join(_END_SECONDS)

    def lost(self) -> list[str]:
        """Read everything that was pushed back through every replica; say what is not there."""
        lost = []
        for name in self.cluster.replicas:
            read_back = self.load.lost(self.cluster.url_of(name))
            lost += self.cluster.client.call(read_back, seconds=300)
        return lost

    # --- seeing ----------------------------------------------------------------------------------

    def scene(self) -> Scene:
        """Give what there is to see now; any thread may ask."""
        now = time.monotonic()
        return Scene(
            elapsed=now - self._began,
            steps=tuple(step.seen() for step in list(self.steps)),
            machines=machines_seen(self._look_at_power(now), self._status),
            status=self._status,
            silence=self._silence,
            clients=(
                self._clients("pushes", self.load.pushes),
                self._clients("pulls", self.load.pulls),
            ),
            failed=len(self.load.failed_again),
            message=self.message,
        )

    def _look_at_power(self, now: float) -> dict[str, tuple[bool, float]]:
        found = {}
        for machine in self._machines:
            power = self._power[machine.name]
            if power.is_on != machine.is_on:
                power.is_on, power.changed_at = machine.is_on, now
            since = 0.0 if power.changed_at is None else now - power.changed_at
            found[machine.name] = power.is_on, since
        return found

    def _clients(self, name: str, record: Record) -> ClientsSeen:
        minute = tuple(self._minutes[name])
        return ClientsSeen(name, record.done, len(record.failures), record.longest_wait, minute)

    def _begin(self, watch: Callable[[], None]) -> None:
        thread = threading.Thread(target=watch, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch_clients(self) -> None:
        """Count each second what was done in it."""
        records = {"pushes": self.load.pushes, "pulls": self.load.pulls}
        counted = dict.fromkeys(records, 0)
        while not self._ending.wait(1):
            is_short = not all(machine.is_on for machine in self._machines)
            for name, record in records.items() if self._has_clients else ():
                done, counted[name] = record.done - counted[name], record.done
                self._minutes[name].append(Second(done, is_short))
            self._keep(self.scene())

    def _watch_status(self) -> None:
        enter_network(self.cluster.machines[CLIENT].namespace)
        addresses = [machine.address for machine in self._machines]
        authority = (self._machines[0].disk.path / "pki" / "ca.crt").read_text()
        client = UcpClient(addresses[0], ca_pem=authority, others=addresses[1:])
        is_logged_in = False
        while not self._ending.wait(_STATUS_SECONDS):
            try:
                if not is_logged_in:
                    client.login(USERNAME, PASSWORD)
                    is_logged_in = True
                self._status, self._silence = client.call("GET", "/dtr/status"), ""
            except UcpError as error:
                self._silence = error.what
