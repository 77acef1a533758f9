"""What the cluster's decisions are made from: one snapshot of the control plane, and what it means.

Nothing here is asked for while a decision is made; `build` reads the keys that the loop has read.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pydantic import JsonValue, ValidationError

from dtr.cluster import model
from dtr.cluster.model import (
    BALANCER_SERVICE,
    REPLICA_SERVICE,
    Balancer,
    BalancerReport,
    DtrCluster,
    DtrSecrets,
    Replica,
    ReplicaReport,
    WebCertificate,
)
from dtr.ucp import keys
from dtr.ucp.model import (
    Document,
    Manager,
    Node,
    NodeReport,
    Operation,
    OperationState,
    Probe,
    ProbeReport,
)
from dtr.ucp.store import Entry

D = TypeVar("D", bound=Document)

SILENT_SECONDS: Final = 10
"""Without a report for so long, a node is not ready: five reports are missing."""
UNREACHABLE_SECONDS: Final = 30
"""Without a report for so long, nothing waits for a node any more."""

PREFIXES: Final = (
    keys.NODES,
    keys.REPORTS,
    keys.MANAGERS,
    keys.SERVICES,
    keys.PROBES,
    keys.OPERATIONS,
    keys.DTR,
    model.SECRETS,
    keys.PATRONI,
)
"""What a view is built from, with the single key `keys.OPERATION_LOCK`."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A node and what it last told."""

    node: Node
    report: NodeReport | None = None
    replica: ReplicaReport | None = None
    balancer: BalancerReport | None = None

    @property
    def probe(self) -> ProbeReport | None:
        """What came of the last network test there."""
        return self.report.probe if self.report else None


@dataclass(frozen=True, slots=True)
class PatroniMember:
    """What a Patroni tells the others of its database, in etcd."""

    name: str
    role: str = ""
    state: str = ""
    is_streaming: bool = False
    timeline: int = 0
    wal_position: int = 0


@dataclass(frozen=True, slots=True)
class Patroni:
    """Patroni's own keys below `/db/registry/`."""

    leader: str = ""
    """The replica that holds the leader key; empty where nobody does."""
    members: Mapping[str, PatroniMember] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    """The dynamic configuration; None before the bootstrap."""
    voters: frozenset[str] = frozenset()
    """The standbys of which some must acknowledge each commit."""
    quorum: int = 0
    """How many other voters a candidate must see."""
    is_switching: bool = False
    """Whether a switchover has been asked for and is not done."""
    is_initialized: bool = False

    @property
    def acknowledgements(self) -> int:
        """How many standbys a commit waits for, as PostgreSQL has been told."""
        return len(self.voters) - self.quorum


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Everything that a decision may depend on, at one moment."""

    machines: Mapping[str, Machine] = field(default_factory=dict)
    """By node id."""
    managers: tuple[Manager, ...] = ()
    cluster: DtrCluster | None = None
    secrets: DtrSecrets | None = None
    certificates: Mapping[str, WebCertificate] = field(default_factory=dict)
    replicas: tuple[Replica, ...] = ()
    """By id."""
    balancers: tuple[Balancer, ...] = ()
    patroni: Patroni = field(default_factory=Patroni)
    services: Mapping[tuple[str, str], JsonValue] = field(default_factory=dict)
    """What nodes have been told, by node id and service name."""
    probes: Mapping[str, Probe] = field(default_factory=dict)
    operations: tuple[Operation, ...] = ()
    """Those that run, oldest first."""
    lock: str = ""
    """The operation that may change membership."""
    version: str = ""
    """Of this controller."""
    watched_since: float = 0
    """Since when this controller has looked without a pause: silence before that says nothing."""
    revisions: Mapping[str, int] = field(default_factory=dict)
    """At which revision each key was changed last."""

    def replica(self, replica_id: str) -> Replica | None:
        """Return a replica's record."""
        return next((each for each in self.replicas if each.id == replica_id), None)

    def replica_on(self, node_id: str) -> Replica | None:
        """Return the record of the replica on a node."""
        return next((each for each in self.replicas if each.node_id == node_id), None)

    def balancer_on(self, node_id: str) -> Balancer | None:
        """Return the record of the balancer on a node."""
        return next((each for each in self.balancers if each.node_id == node_id), None)

    def machine_of(self, replica: Replica) -> Machine | None:
        """Return the machine of a replica; None where its node was removed from UCP."""
        return self.machines.get(replica.node_id)

    def machine_named(self, name: str) -> Machine | None:
        """Return a machine by its node's name or id."""
        for machine in self.machines.values():
            if name in {machine.node.name, machine.node.id}:
                return machine
        return None

    def report_of(self, replica: Replica) -> ReplicaReport | None:
        """Return what a replica last told; None where that was another replica, or nothing."""
        machine = self.machine_of(replica)
        report = machine.replica if machine else None
        return report if report is not None and report.id == replica.id else None

    def silence(self, machine: Machine | None, now: float) -> float:
        """Return for how many seconds a node has told nothing while this controller listened."""
        told_at = machine.report.received_at if machine and machine.report else 0.0
        return max(0.0, now - max(told_at, self.watched_since))

    def is_fresh(self, machine: Machine | None, now: float) -> bool:
        """Return whether a node's report is recent enough to be believed."""
        if machine is None or machine.report is None:
            return False
        return now - machine.report.received_at <= SILENT_SECONDS

    def is_unreachable(self, replica: Replica, now: float) -> bool:
        """Return whether nothing on a replica's node can be waited for."""
        machine = self.machine_of(replica)
        return machine is None or self.silence(machine, now) > UNREACHABLE_SECONDS

    @property
    def counted(self) -> tuple[Replica, ...]:
        """The replicas that the majority arithmetic counts."""
        return tuple(each for each in self.replicas if each.is_counted)

    def name_of(self, node_id: str) -> str:
        """Return a node's name for people."""
        machine = self.machines.get(node_id)
        return machine.node.name if machine else f"{node_id} (no longer in UCP)"


def illness(view: ClusterView, replica: Replica, now: float) -> str:
    """Return why a replica is not healthy, as the end of a sentence; empty where it is.

    What its node does not tell is an illness too: nobody knows.
    """
    machine = view.machine_of(replica)
    if machine is None:
        return "its node was removed from UCP"
    if not view.is_fresh(machine, now):
        told_at = machine.report.received_at if machine.report else None
        since = f"for {now - told_at:.0f} s" if told_at else "yet"
        return f"its node {machine.node.name} has told nothing {since}"
    report = view.report_of(replica)
    if report is None:
        return f"the agent of {machine.node.name} has not told how it is"
    if not report.is_healthy:
        return report.health_error or "its registry does not answer"
    return ""


def is_writable(view: ClusterView, now: float) -> bool:
    """Return whether pushes are accepted, as far as reports tell."""
    primary = view.replica(view.patroni.leader)
    needed = len(view.counted) // 2 + 1
    healthy = sum(not illness(view, each, now) for each in view.counted)
    is_there = primary is not None and not illness(view, primary, now)
    is_strict = bool((view.patroni.config or {}).get("synchronous_mode_strict"))
    return is_there and (healthy >= needed or not is_strict)


def is_read_only(view: ClusterView, now: float) -> bool:
    """Return whether an administrator has the registry serve pulls only."""
    reports = (view.report_of(each) for each in view.counted if not view.is_unreachable(each, now))
    return any(report is not None and report.is_read_only for report in reports)


def lag_bytes(view: ClusterView, replica: Replica) -> int | None:
    """Return by how much a standby is behind the primary, as of their reports; None: unknown."""
    primary = view.replica(view.patroni.leader)
    first = view.report_of(primary) if primary else None
    second = view.report_of(replica)
    if first is None or second is None:
        return None
    if not first.database.wal_position or not second.database.wal_position:
        return None
    return max(0, first.database.wal_position - second.database.wal_position)


def is_streaming(view: ClusterView, replica: Replica, now: float) -> bool:
    """Return whether a replica's database follows the primary, or is the primary."""
    if view.patroni.leader == replica.id:
        return True
    report = view.report_of(replica)
    if report is not None and view.is_fresh(view.machine_of(replica), now):
        return report.database.is_answering and report.database.is_streaming
    member = view.patroni.members.get(replica.id)
    return member is not None and member.is_streaming


def build(
    entries: Iterable[Entry],
    *,
    version: str,
    watched_since: float,
) -> ClusterView:
    """Return the view of what the store holds.

    A document that cannot be read is treated as absent, except a record of the cluster itself:
    to decide without that would be to forget a replica.

    Raises:
        pydantic.ValidationError: a record of the cluster is not readable by this version.

    """
    found = {entry.key: entry for entry in entries}
    secrets = found.get(model.SECRETS)
    cluster = found.get(model.CLUSTER)
    lock = found.get(keys.OPERATION_LOCK)
    return ClusterView(
        machines=_machines(found),
        managers=tuple(_readable(found, keys.MANAGERS, Manager).values()),
        cluster=cluster.document(DtrCluster) if cluster else None,
        secrets=secrets.document(DtrSecrets) if secrets else None,
        certificates=_readable(found, model.WEB_CERTIFICATES, WebCertificate),
        replicas=tuple(_records(found, model.REPLICAS, Replica)),
        balancers=tuple(_records(found, model.BALANCERS, Balancer)),
        patroni=_patroni(found),
        services=_services(found),
        probes=_readable(found, keys.PROBES, Probe),
        operations=_running(found),
        lock=lock.value.decode() if lock else "",
        version=version,
        watched_since=watched_since,
        revisions={key: entry.modified for key, entry in found.items()},
    )


def _records(found: Mapping[str, Entry], prefix: str, kind: type[D]) -> list[D]:
    return [found[key].document(kind) for key in sorted(found) if key.startswith(prefix)]


def _readable(found: Mapping[str, Entry], prefix: str, kind: type[D]) -> dict[str, D]:
    documents = {}
    for key, entry in sorted(found.items()):
        if key.startswith(prefix):
            try:
                documents[key.removeprefix(prefix)] = entry.document(kind)
            except ValidationError:
                continue
    return documents


def _machines(found: Mapping[str, Entry]) -> dict[str, Machine]:
    reports = _readable(found, keys.REPORTS, NodeReport)
    machines = {}
    for node_id, node in _readable(found, keys.NODES, Node).items():
        report = reports.get(node_id)
        services = report.services if report else {}
        machines[node_id] = Machine(
            node,
            report,
            _service_report(services.get(REPLICA_SERVICE), ReplicaReport),
            _service_report(services.get(BALANCER_SERVICE), BalancerReport),
        )
    return machines


def _service_report(value: JsonValue, kind: type[D]) -> D | None:
    try:
        return kind.model_validate(value) if value is not None else None
    except ValidationError:
        return None


def _services(found: Mapping[str, Entry]) -> dict[tuple[str, str], JsonValue]:
    services: dict[tuple[str, str], JsonValue] = {}
    for key, entry in found.items():
        node_id, _, name = key.removeprefix(keys.SERVICES).partition("/")
        if key.startswith(keys.SERVICES) and name in {REPLICA_SERVICE, BALANCER_SERVICE}:
            document = _object(entry)
            services[node_id, name] = document.get("specification") if document else None
    return services


def _running(found: Mapping[str, Entry]) -> tuple[Operation, ...]:
    operations = _readable(found, keys.OPERATIONS, Operation).values()
    running = (each for each in operations if each.state is OperationState.RUNNING)
    return tuple(sorted(running, key=lambda each: (each.created_at, each.id)))


def _patroni(found: Mapping[str, Entry]) -> Patroni:
    prefix = keys.PATRONI
    leader = found.get(f"{prefix}leader")
    sync = _object(found.get(f"{prefix}sync")) or {}
    failover = _object(found.get(f"{prefix}failover")) or {}
    name = leader.value.decode(errors="replace") if leader else ""
    voters = {each.strip() for each in str(sync.get("sync_standby") or "").split(",")}
    quorum = sync.get("quorum")
    members = f"{prefix}members/"
    return Patroni(
        leader=name,
        members={
            key.removeprefix(members): _member(key.removeprefix(members), _object(entry) or {})
            for key, entry in found.items()
            if key.startswith(members)
        },
        config=_object(found.get(f"{prefix}config")),
        voters=frozenset(voters - {"", name}),
        quorum=quorum if isinstance(quorum, int) else 0,
        is_switching=bool(failover.get("member") or failover.get("leader")),
        is_initialized=bool(found[f"{prefix}initialize"].value)
        if f"{prefix}initialize" in found
        else False,
    )


def _member(name: str, document: Mapping[str, Any]) -> PatroniMember:
    def number(key: str) -> int:
        value = document.get(key)
        return value if isinstance(value, int) else 0

    return PatroniMember(
        name=name,
        role=str(document.get("role", "")),
        state=str(document.get("state", "")),
        is_streaming=document.get("replication_state") == "streaming",
        timeline=number("timeline"),
        wal_position=number("xlog_location"),
    )


def _object(entry: Entry | None) -> dict[str, Any] | None:
    try:
        value = json.loads(entry.value) if entry is not None else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
