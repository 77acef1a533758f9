"""What must hold before anything is touched: each check says what is wrong and what to do."""

from collections.abc import Iterable
from typing import Final

from dtr.cluster.model import (
    DATABASE_PORT,
    PATRONI_PORT,
    PEER_PORT,
    PROXY_PORT,
    REPLICA_SERVICE,
    Replica,
    ReplicaPhase,
)
from dtr.cluster.operations import REPLICATED
from dtr.cluster.plan_actions import (
    Act,
    ClearProbe,
    Context,
    Done,
    Fail,
    Outcome,
    SetProbe,
    Wait,
)
from dtr.cluster.view import ClusterView, Machine, illness
from dtr.ucp.model import Probe

MOST_SKEW_SECONDS: Final = 2.0
LEAST_FREE_BYTES: Final = 2**30
_PROBE_SECONDS: Final = 30.0
_NEW_SECONDS: Final = 60.0


def find_node(context: Context) -> Machine | str:
    """Return the node that the operation names, or why nothing can be put there."""
    view, name = context.view, context.text("node")
    machine = view.machine_named(name)
    if machine is None:
        known = ", ".join(sorted(each.node.name for each in view.machines.values()))
        return f"UCP has no node {name!r}. Its nodes are: {known}."
    return _problem_of_node(context, machine) or machine


def wait_for_new_node(context: Context) -> Wait | None:
    """Return what to wait for where the named node has only just joined UCP."""
    machine = context.view.machine_named(context.text("node"))
    if machine is None or machine.report is not None:
        return None
    is_new = context.now - machine.node.joined_at < _NEW_SECONDS
    return Wait(f"for the first report of {machine.node.name}") if is_new else None


def _problem_of_node(context: Context, machine: Machine) -> str:
    view, node, report = context.view, machine.node, machine.report
    if report is None or not view.is_fresh(machine, context.now):
        return (
            f"The node {node.name} does not report. See that the machine is on and that its agent "
            "runs: systemctl status ucp-agent."
        )
    if node.is_paused:
        return f"The node {node.name} is paused. Choose another, or resume it in UCP."
    if report.version != view.version:
        return (
            f"The node {node.name} runs version {report.version} and UCP {view.version}. "
            "Install the same version on both."
        )
    skew = report.received_at - report.at
    if abs(skew) >= MOST_SKEW_SECONDS:
        which = "behind" if skew > 0 else "ahead"
        return (
            f"The clock of {node.name} is {abs(skew):.1f} s {which}. "
            "Have both machines follow the same time server."
        )
    if report.disk_free_bytes < LEAST_FREE_BYTES:
        return (
            f"The node {node.name} has {report.disk_free_bytes / 2**30:.2f} GiB of free disk, and "
            "a replica needs at least 1 GiB. Free some space there."
        )
    return ""


def problem_of_new_replica(context: Context, machine: Machine) -> str:
    """Return why a replica with this id and these ports cannot be put on a node."""
    view, node = context.view, machine.node
    there = view.replica_on(node.id)
    if there is not None:
        return f"The node {node.name} has the replica {there.id}. Choose another node."
    balancer = view.balancer_on(node.id)
    wanted = {context.number("https_port"), context.number("http_port")}
    if balancer is not None and wanted & {balancer.https_port, balancer.http_port}:
        return (
            f"The load balancer on {node.name} has a port that the replica would need. "
            "Give the replica others: --replica-https-port, --replica-http-port."
        )
    taken = wanted & {DATABASE_PORT, PATRONI_PORT, PEER_PORT, PROXY_PORT, node.controller_port}
    if taken:
        return (
            f"Port {min(taken)} is needed by something else on {node.name}. "
            "Give the replica others: --replica-https-port, --replica-http-port."
        )
    replica_id = context.text("replica_id")
    former = view.cluster.former_replicas if view.cluster else ()
    if view.replica(replica_id) is not None or replica_id in former:
        return (
            f"The id {replica_id} belongs to a replica of this cluster, or did. "
            "Choose another, or none: --replica-id."
        )
    return ""


def problem_of_storage(view: ClusterView) -> str:
    """Return why the blobs cannot be seen by a second replica; empty where they can."""
    cluster = view.cluster
    if cluster is None or cluster.storage == REPLICATED:
        return ""
    if cluster.storage.startswith("file:") and not cluster.is_storage_shared:
        return (
            f"The registry keeps its blobs in {cluster.storage}, a directory of one machine: a "
            "second replica would see none of them. DTR does not copy such a directory among "
            "replicas. Move the blobs to storage that all replicas see with dtr storage copy, or, "
            "if that directory is the same on every node (NFS), install with --storage-is-shared."
        )
    return ""


def problem_of_others(context: Context, others: Iterable[Replica]) -> str:
    """Return which replicas are not healthy, and why; empty where all are."""
    sick = [(each, illness(context.view, each, context.now)) for each in others]
    return "; ".join(f"{each.id}: {why}" for each, why in sick if why)


def problem_of_existing(context: Context, *, staying: tuple[Replica, ...]) -> str:
    """Return why the existing replica that was named cannot be gone through."""
    named = context.text("existing_replica_id")
    if not named:
        return ""
    replica = next((each for each in staying if each.id == named), None)
    if replica is None:
        known = ", ".join(each.id for each in staying) or "none"
        return f"There is no existing replica {named}. The replicas are: {known}."
    why = illness(context.view, replica, context.now)
    if why:
        return f"The existing replica {named} is not healthy: {why}. Name a healthy one."
    return ""


def remains(context: Context, machine: Machine) -> str:
    """Return what a node still has of a replica that has left; empty where it has nothing."""
    told = context.view.services.get((machine.node.id, REPLICA_SERVICE))
    if told is None or context.view.replica_on(machine.node.id) is not None:
        return ""
    return f"{machine.node.name} to delete what a former replica left there"


def wanted_ports(context: Context) -> tuple[int, ...]:
    """Return all ports that a new replica listens on."""
    return (
        context.number("https_port"),
        context.number("http_port"),
        DATABASE_PORT,
        PATRONI_PORT,
        PEER_PORT,
        PROXY_PORT,
    )


def probe_new_node(
    context: Context, machine: Machine, ports: tuple[int, ...], reach: tuple[str, ...]
) -> Outcome:
    """See that ports are free on a node, and that it reaches others; done with the probe in place.

    It goes on listening until the probe is cleared, so that others can try to reach it.
    """
    node = machine.node
    probe = Probe(id=context.operation.id, listen=ports, connect=reach)
    if context.view.probes.get(node.id) != probe:
        return Act((SetProbe(node.id, probe),), f"{node.name} tries its ports")
    report = machine.probe
    if report is None or report.id != probe.id:
        if context.waited > _PROBE_SECONDS:
            return Fail(
                f"The node {node.name} did not test its network within {_PROBE_SECONDS:.0f} s. "
                f"See its agent's log on {node.name}."
            )
        return Wait(f"for {node.name} to try its ports")
    taken = {port: why for port, why in report.listening.items() if why}
    if taken:
        return Fail(_taken_port(node.name, *min(taken.items())))
    return _reached(node.name, report.connected) or Done()


def _taken_port(name: str, port: int, why: str) -> str:
    remedy = "Stop what uses it ('ss -ltnp' there shows it)"
    if port == DATABASE_PORT:
        remedy += "; Debian's PostgreSQL starts by itself: systemctl disable --now postgresql"
    elif port not in {PATRONI_PORT, PEER_PORT, PROXY_PORT}:
        remedy += ", or choose other ports: --replica-https-port, --replica-http-port"
    return f"Port {port} of {name} cannot be used: {why}. {remedy}."


def probe_from_others(
    context: Context, machine: Machine, others: tuple[Machine, ...], reach: tuple[str, ...]
) -> Outcome:
    """See that the nodes of other replicas reach a new one."""
    wanted = Probe(id=context.operation.id, connect=reach)
    missing = [each for each in others if context.view.probes.get(each.node.id) != wanted]
    if missing:
        actions = tuple(SetProbe(each.node.id, wanted) for each in missing)
        return Act(actions, f"the other nodes try to reach {machine.node.name}")
    for each in others:
        report = each.probe
        if report is None or report.id != wanted.id:
            if context.waited > 2 * _PROBE_SECONDS:
                return Fail(
                    f"The node {each.node.name} did not test its network in time. "
                    f"See its agent's log on {each.node.name}, or pass --skip-network-test."
                )
            return Wait(f"for {each.node.name} to reach {machine.node.name}")
        failed = _reached(each.node.name, report.connected)
        if failed is not None:
            return failed
    return Done()


def clear_probes(context: Context) -> tuple[ClearProbe, ...]:
    """Return what ends all network tests."""
    return tuple(ClearProbe(node_id) for node_id in sorted(context.view.probes))


def ports_of(replica: Replica) -> tuple[int, ...]:
    """Return the ports on which other nodes reach a replica that runs, besides balancers."""
    database = (DATABASE_PORT, PATRONI_PORT)
    if replica.phase in {ReplicaPhase.SERVING, ReplicaPhase.DRAINING}:
        return (*database, replica.https_port)
    return database


def address(machine: Machine, port: int) -> str:
    """Return `address:port` of a node, with brackets around an IPv6 address."""
    host = machine.node.host_address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reached(name: str, connected: dict[str, str]) -> Fail | None:
    failed = {target: why for target, why in connected.items() if why}
    if not failed:
        return None
    target, why = min(failed.items())
    return Fail(
        f"The node {name} cannot reach {target}: {why}. Open that port between the two machines, "
        "or pass --skip-network-test where you know better."
    )
