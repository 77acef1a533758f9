"""What there is to see at one moment of the demonstration: values, which a picture is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

MINUTE: Final = 60
"""How many seconds of the clients' past are kept."""
_RATE_SECONDS: Final = 10


@dataclass(frozen=True)
class StepSeen:
    """One thing that is done, as one would type it."""

    title: str
    seconds: float
    """How long it took or has taken so far."""
    is_running: bool = False
    note: str = ""
    is_failed: bool = False


@dataclass(frozen=True)
class MachineSeen:
    """A machine: whether it has power, and what `dtr status` last said of its replica."""

    name: str
    has_power: bool = True
    since: float = 0.0
    """Without power, or with it again, for so many seconds; 0 where it always was."""
    replica: Mapping[str, Any] | None = None
    """As in `GET /dtr/status`; None where there is none."""
    is_manager: bool = False

    @property
    def is_well(self) -> bool:
        """Whether there is nothing to worry about: also a replica that comes or goes is well."""
        replica = self.replica
        is_ill = replica is not None and replica["phase"] == "serving" and replica["health"] != "OK"
        return self.has_power and not is_ill


@dataclass(frozen=True)
class Second:
    """What one kind of client did in one second."""

    done: int
    is_short: bool
    """A machine had no power."""


@dataclass(frozen=True)
class ClientsSeen:
    """What one kind of client did so far."""

    name: str
    done: int = 0
    repeated: int = 0
    longest_wait: float = 0.0
    """Of a single request, in seconds."""
    minute: Sequence[Second] = ()
    """The last one, oldest second first."""

    @property
    def rate(self) -> float:
        """How many a second were done of late."""
        late = self.minute[-_RATE_SECONDS:]
        return sum(each.done for each in late) / len(late) if late else 0.0


@dataclass(frozen=True)
class Scene:
    """All of it."""

    elapsed: float = 0.0
    steps: Sequence[StepSeen] = ()
    machines: Sequence[MachineSeen] = ()
    status: Mapping[str, Any] = field(default_factory=dict)
    """The last answer of `GET /dtr/status`; empty before the first one."""
    silence: str = ""
    """Why there is no newer one."""
    clients: Sequence[ClientsSeen] = (ClientsSeen("pushes"), ClientsSeen("pulls"))
    failed: int = 0
    """Pushes and pulls that failed though they were repeated."""
    message: str = ""
    """What is to be said above all."""


def machines_seen(
    power: Mapping[str, tuple[bool, float]], status: Mapping[str, Any]
) -> tuple[MachineSeen, ...]:
    """Put together who has power, since when, and what the status says of whom."""
    replicas = {each["node"]: each for each in status.get("replicas", ())}
    managers = {each["node"] for each in status.get("managers", ())}
    return tuple(
        MachineSeen(name, has_power, since, replicas.get(name), name in managers)
        for name, (has_power, since) in power.items()
    )
