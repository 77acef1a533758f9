"""What a decision can ask for, and what a step of an operation can answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import JsonValue

from dtr.cluster.model import Balancer, DtrCluster, Replica, WebCertificate
from dtr.cluster.view import ClusterView
from dtr.ucp.model import Operation, Phase, Probe


@dataclass(frozen=True, slots=True)
class PutReplica:
    """Write a replica's record."""

    replica: Replica


@dataclass(frozen=True, slots=True)
class DeleteReplica:
    """Forget a replica: its record, and its password for etcd."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class PutCluster:
    """Write the cluster's record."""

    cluster: DtrCluster


@dataclass(frozen=True, slots=True)
class DeleteCluster:
    """Forget the cluster: its record, its secrets, and everything of Patroni's."""


@dataclass(frozen=True, slots=True)
class MakeSecrets:
    """Make the passwords that are missing: the cluster's, and a replica's for etcd."""

    replica_id: str
    administrator: str
    """Whose password the registry's first administrator has, if the cluster has no secrets yet."""


@dataclass(frozen=True, slots=True)
class PutWebKey:
    """Write the private key of the web certificate into the cluster's secrets."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PutCertificate:
    """Keep a web certificate with its key aside."""

    certificate: WebCertificate = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeleteCertificate:
    """Delete a web certificate that was kept aside."""

    certificate_id: str


@dataclass(frozen=True, slots=True)
class AddEtcdUser:
    """Let a replica's Patroni into etcd; done before everything else of the same decision."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class RemoveEtcdUser:
    """Lock a replica's Patroni out of etcd; done before everything else of the same decision."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class SetProbe:
    """Ask a node for a network test."""

    node_id: str
    probe: Probe


@dataclass(frozen=True, slots=True)
class ClearProbe:
    """End a node's network test."""

    node_id: str


@dataclass(frozen=True, slots=True)
class PatchPatroni:
    """Change Patroni's dynamic configuration, if nobody has changed it meanwhile."""

    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AskSwitchover:
    """Ask Patroni to move the primary, if `leader` still is it; without one, to promote."""

    leader: str
    candidate: str


@dataclass(frozen=True, slots=True)
class DeletePatroniMember:
    """Delete what a Patroni that is gone told of itself."""

    name: str


@dataclass(frozen=True, slots=True)
class ForgetLeader:
    """Delete what Patroni knows of a leader and of who has its commits: for emergency repair.

    With a wish for a new leader (`AskSwitchover`) beside it.
    """


@dataclass(frozen=True, slots=True)
class PutBalancer:
    """Write a balancer's record."""

    balancer: Balancer


@dataclass(frozen=True, slots=True)
class DeleteBalancer:
    """Forget a balancer."""

    node_id: str


@dataclass(frozen=True, slots=True)
class PutService:
    """Tell a node what it is to run."""

    node_id: str
    name: str
    specification: JsonValue = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeleteService:
    """Tell a node nothing about a service any more."""

    node_id: str
    name: str


@dataclass(frozen=True, slots=True)
class PutOperation:
    """Write how far an operation is; one that has ended gives up the lock."""

    operation: Operation


Action = (
    PutReplica
    | DeleteReplica
    | PutCluster
    | DeleteCluster
    | MakeSecrets
    | PutWebKey
    | PutCertificate
    | DeleteCertificate
    | AddEtcdUser
    | RemoveEtcdUser
    | SetProbe
    | ClearProbe
    | PatchPatroni
    | AskSwitchover
    | DeletePatroniMember
    | ForgetLeader
    | PutBalancer
    | DeleteBalancer
    | PutService
    | DeleteService
    | PutOperation
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done now, all of it or nothing, and why.

    Users of etcd are added and removed first, one by one, which may be repeated; all else is one
    transaction, which fails where any record that the view showed has changed.
    """

    actions: tuple[Action, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Context:
    """What a step is given."""

    view: ClusterView
    now: float
    operation: Operation
    phase: Phase | None = None
    """The one that runs; None while none has begun."""

    def text(self, name: str) -> str:
        """Return an argument of the operation that is text."""
        value = self.operation.arguments.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> int:
        """Return an argument of the operation that is a number."""
        value = self.operation.arguments.get(name)
        return value if isinstance(value, int) else 0

    def is_set(self, name: str) -> bool:
        """Return an argument of the operation that is a flag."""
        return self.operation.arguments.get(name) is True

    @property
    def waited(self) -> float:
        """Return for how long the phase has run while this controller looked."""
        began = self.phase.started_at if self.phase else self.now
        return self.now - max(began, self.view.watched_since)


@dataclass(frozen=True, slots=True)
class Done:
    """The step is over; its actions and the next phase are written together."""

    message: str = ""
    actions: tuple[Action, ...] = ()
    warning: str = ""
    """What whoever asked for the operation should know at its end."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done until something is reported."""

    message: str


@dataclass(frozen=True, slots=True)
class Act:
    """Do this, and look again; `message` says what for."""

    actions: tuple[Action, ...]
    message: str = ""
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Fail:
    """It cannot be done: one sentence of what happened and one of what to do."""

    error: str


Outcome = Done | Wait | Act | Fail
StepFunction = Callable[[Context], Outcome]


@dataclass(frozen=True, slots=True)
class Step:
    """A phase of an operation: its name in the present participle, and how it goes on.

    A step reads everything from the view and may be begun again at any point: what it has done
    already it finds done.
    """

    name: str
    run: StepFunction


@dataclass(frozen=True, slots=True)
class Script:
    """All of an operation."""

    steps: tuple[Step, ...]
    cleanup: StepFunction
    """What undoes it after a failure; begun again from its start each time."""
    result: Callable[[Context], dict[str, JsonValue]]
    why_not_cancelled: Callable[[Context], str] = lambda _context: ""
    """Why it has to go on now that somebody wants it to stop; empty where it can stop."""


def sequence(*functions: StepFunction) -> StepFunction:
    """Return a step that is done when all of these are; each finds what it did before done.

    None of them may be done with actions: the next one would not see them.
    """

    def run(context: Context) -> Outcome:
        warning = ""
        for function in functions:
            outcome = function(context)
            if isinstance(outcome, Act):
                return replace(outcome, warning=outcome.warning or warning)
            if not isinstance(outcome, Done):
                return outcome
            warning = warning or outcome.warning
        return Done(warning=warning)

    return run
