"""What a job is, apart from where it is kept and who runs it."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple


class State(StrEnum):
    """Where a job stands. The last three are ends."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        """Whether nothing will happen to the job any more."""
        return self not in {State.WAITING, State.RUNNING}


class JobFailedError(Exception):
    """A job cannot succeed, and trying again would not help; the message says why."""


@dataclass(frozen=True, slots=True)
class JobKind:
    """One kind of work, known by name to every runner of this version.

    Its body must be idempotent, for it is run again after a crash, and safe beside itself, for a
    runner that is cut off from the metadata goes on until it comes back and finds its job taken.
    """

    name: str
    summary: str
    flags: frozenset[str] = frozenset()
    """The parameters that may be true."""
    most_at_once: int = 1
    """How many may run at once in the whole registry."""
    most_attempts: int = 3
    deadline_seconds: float = 86400
    """How long an attempt may take."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """What is asked for. One such object enqueues one job, however often it is enqueued."""

    kind: JobKind
    parameters: Mapping[str, Any] = field(default_factory=dict)
    run_at: float | None = None
    """Not before this time; as soon as possible where it is None."""
    most_attempts: int | None = None
    """Where the kind's own is not wanted."""
    schedule: str | None = None
    key: str = field(default_factory=lambda: secrets.token_hex(16))


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the metadata knows it. Times are seconds since the epoch."""

    id: int
    kind: str
    parameters: Mapping[str, Any]
    state: State
    schedule: str | None
    created_at: float
    run_at: float
    started_at: float | None
    finished_at: float | None
    deadline_seconds: float
    attempts: int
    most_attempts: int
    runner: str | None
    heartbeat_at: float | None
    is_cancel_requested: bool
    progress: str
    error: str

    @property
    def claim(self) -> "Claim":
        """The attempt that runs now, or ran last."""
        return Claim(self.id, self.runner or "", self.attempts)


class Claim(NamedTuple):
    """The right to run one attempt of a job; every change that a runner makes names it.

    A job that was claimed by somebody else meanwhile has another runner or another attempt, and the
    change of whoever comes too late changes nothing.
    """

    job_id: int
    runner: str
    attempt: int


class Line(NamedTuple):
    """A line of a job's log."""

    number: int
    at: float
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a running job has to say since it was last heard."""

    claim: Claim
    progress: str
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. A failure is tried again after a while if attempts are left."""

    state: State
    error: str = ""
    may_retry: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """A job that is asked for again and again, once in the whole registry."""

    name: str
    kind: str
    timing: str
    """A cron expression in UTC, or `every N s`: a pause from the end of one to the next."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    is_enabled: bool = True


@dataclass(frozen=True, slots=True)
class Survey:
    """What a runner looks at to know whether there is anything to do."""

    running: tuple[Job, ...]
    waiting: Mapping[str, float]
    """When the first waiting job of a kind is due."""
    schedule_at: float | None
    """When the next schedule is due that has no job open."""
