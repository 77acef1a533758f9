"""What a component of the agent is, and what it uses to run processes."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Final, Protocol

from pydantic import JsonValue

from dtr.ucp.model import ProcessReport, Wanted


@dataclass(frozen=True, slots=True)
class NodeDirectory:
    """The node's own directory, `--data-dir` (default `/var/lib/ucp`); everything is below it.

    The directory itself may be entered by anybody (0711) because engines run as other users; what
    is secret is in directories of mode 0700 or files of mode 0600 that belong to who needs them.
    """

    root: Path

    @property
    def identity(self) -> Path:
        """`node.json`: `NodeIdentity`."""
        return self.root / "node.json"

    @property
    def wanted(self) -> Path:
        """The last `Wanted` that a controller sent; holds secrets."""
        return self.root / "wanted.json"

    @property
    def bootstrap(self) -> Path:
        """What the first controller writes into an empty store; there until it has."""
        return self.root / "bootstrap.json"

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.root / "pki" / "ca.crt"

    @property
    def certificate(self) -> Path:
        """The node's certificate: for the agents' API, and for nothing else."""
        return self.root / "pki" / "node.crt"

    @property
    def key(self) -> Path:
        """The node's private key; it never leaves the machine, and no engine holds it."""
        return self.root / "pki" / "node.key"

    @property
    def logs(self) -> Path:
        """A file for each process."""
        return self.root / "log"

    @property
    def run(self) -> Path:
        """Sockets and process ids."""
        return self.root / "run"

    @property
    def renewal_wish(self) -> Path:
        """There while the node's certificate is to be renewed before its time."""
        return self.root / "pki" / "renew"

    @property
    def engine_keys(self) -> Path:
        """The agent's own part of the keys of engines (0700): what it asks this node's etcd with.

        The controller, which is the agent's user, speaks to etcd with the same.
        """
        return self.root / "pki" / "engines"

    def of(self, component: str) -> Path:
        """Return a component's own directory; the component makes it and owns it."""
        return self.root / component


@dataclass(frozen=True, slots=True)
class ProcessSpecification:
    """A process that is to run.

    A change of what it is started with restarts it (`needs_restart_for`), one of `reload_key`
    reloads it, and any other, such as how long it may take to stop, holds from then on.
    """

    name: str
    command: tuple[str, ...]
    """The program with its arguments; never a secret in it."""
    user: str = ""
    """The system user that it runs as; empty, or where the agent is not root: the agent's own."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Besides PATH, HOME and LANG; never a secret in it."""
    directory: Path | None = None
    may_bind_low_ports: bool = False
    """Whether it gets CAP_NET_BIND_SERVICE, although it is not root."""
    restart_key: str = ""
    """The digest of whatever it read when it was started; another one restarts it."""
    reload_key: str = ""
    """The digest of what it reads again when told; another one sends `reload_signal`."""
    reload_signal: Signals = Signals.SIGHUP
    stop_signal: Signals = SIGTERM
    stop_seconds: float = 30
    """After these it is killed."""
    orphan_signal: Signals = SIGTERM
    """What the kernel sends it when the agent dies without a word. Patroni gets SIGKILL: then
    PostgreSQL goes on, and is adopted by the Patroni that the next agent starts."""
    is_ready: Callable[[], Awaitable[bool]] | None = None
    """Asked every half second until it says so and every few seconds after; None: once it runs."""
    ready_seconds: float = 60
    """How long it may take; after that it says so in its report, and is left alone."""
    is_patient_after_exit: bool = True
    """Whether pauses between restarts grow (0.5 s to 30 s); False: at once, then every second."""

    def needs_restart_for(self, other: "ProcessSpecification") -> bool:
        """Tell whether a process that was started like this must be restarted to be the other."""
        return any(getattr(self, name) != getattr(other, name) for name in _STARTED_WITH)


# Not `is_ready`: components make a new function for it at each look.
_STARTED_WITH: Final = (
    "name",
    "command",
    "user",
    "environment",
    "directory",
    "may_bind_low_ports",
    "restart_key",
    "orphan_signal",
)


class Supervisor(Protocol):
    """Runs processes and starts them again when they end; none outlives the agent."""

    async def ensure(self, specification: ProcessSpecification) -> None:
        """Have it run so: start, restart, reload or leave it. Returns at once, before it is ready.

        Idempotent. Raises `SupervisionError`, one sentence, where it can never be started: no such
        program, no such user, the user cannot read the program.
        """
        ...

    async def remove(self, name: str) -> None:
        """End it and return when it is gone; idempotent."""
        ...

    def report(self, name: str) -> ProcessReport:
        """Tell how it is; one that was never asked for is stopped."""
        ...

    def reports(self) -> tuple[ProcessReport, ...]:
        """Tell how all are."""
        ...


class SupervisionError(Exception):
    """A process can never be started so; one sentence of what is wrong and what to do."""


class Controllers(Protocol):
    """The controllers, as this node speaks to them: with its certificate, to any that answers."""

    async def call(self, method: str, path: str, body: JsonValue = None) -> JsonValue:
        """Call a route below `/api/ucp/v0`, such as `/dtr/status`.

        Raises:
            UnavailableError: no controller answered.
            ApiError: one refused; the message says why.

        """
        ...


class Component(Protocol):
    """One kind of thing that a node may run."""

    @property
    def name(self) -> str:
        """For the log and the report."""
        ...

    async def converge(self, wanted: Wanted) -> None:
        """Bring the node a step closer to what is wanted; called every second and at each change.

        Idempotent; returns soon, and goes on at the next call where something takes long. Raises
        any exception with a sentence in it: it becomes one of the node's problems.
        """
        ...

    async def report(self) -> JsonValue:
        """Tell how it is, in its room's words; None where it has nothing to tell. Takes < 2 s."""
        ...

    async def stop(self) -> None:
        """End what it runs, because the agent ends."""
        ...
