"""What is wrong with the cluster, in sentences that say what to do; pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from dtr.cluster.model import BalancerReport, Replica, ReplicaPhase
from dtr.cluster.plan import current_operation
from dtr.cluster.plan_checks import MOST_SKEW_SECONDS
from dtr.cluster.plan_majority import advice, is_configured, synchronous_nodes, tolerated
from dtr.cluster.view import (
    ClusterView,
    Machine,
    illness,
    is_read_only,
    is_streaming,
    is_writable,
    lag_bytes,
)
from dtr.ucp.authority import AuthorityError, expires_at
from dtr.ucp.model import ManagerPhase

_DAY: Final = 86_400.0
_EXPIRES_SOON_SECONDS: Final = 14 * _DAY
_LEAST_FREE_SHARE: Final = 0.1
_SETTLING_SECONDS: Final = 60.0
_GOOD_STATES: Final = frozenset({"UP", "DRAIN"})
MUCH_LAG_BYTES: Final = 256 * 2**20
_MOST: Final = 100


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong."""

    type: str
    description: str
    """One sentence of what is so and one of what to do."""
    is_critical: bool = False
    """Whether pushes are refused, or another failure would be a loss of service."""
    info: dict[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """Return it in the original's shape."""
        return {
            "critical": self.is_critical,
            "type": self.type,
            "description": self.description,
            "info": self.info,
        }


def issues(view: ClusterView, now: float) -> list[Issue]:
    """Return all that is wrong, the critical first."""
    if view.cluster is None:
        return []
    found = [
        *_majority(view, now),
        *_managers(view, now),
        *_replicas(view, now),
        *_machines(view, now),
        *_settings(view, now),
        *_balancers(view, now),
    ]
    return sorted(found, key=lambda each: not each.is_critical)[:_MOST]


def _majority(view: ClusterView, now: float) -> Iterator[Issue]:
    counted = view.counted
    healthy = [each for each in counted if not illness(view, each, now)]
    needed = len(counted) // 2 + 1
    if counted and len(healthy) < needed and len(counted) > 1:
        yield Issue(
            "majority",
            f"Only {len(healthy)} of {len(counted)} replicas are healthy, and writes need "
            f"{needed}. Bring machines back; if they are lost for ever, use dtr emergency-repair.",
            is_critical=True,
        )
    if counted and not view.patroni.leader:
        yield Issue(
            "primary",
            "There is no primary: pushes wait. A failover takes up to half a minute; if it does "
            "not come, see the replicas that are not healthy.",
            is_critical=True,
        )
    elif counted and not is_writable(view, now) and (len(healthy) >= needed or len(counted) == 1):
        yield Issue(
            "primary",
            f"The primary, replica {view.patroni.leader}, cannot be written to: pushes wait. "
            "Another replica takes over if it can; if none does, see the other problems here.",
            is_critical=True,
        )
    advised = advice(len(counted)) if counted else ""
    if advised:
        yield Issue("even", advised)
    if current_operation(view) is not None or not counted:
        return
    acknowledging = view.patroni.acknowledgements
    wanted = synchronous_nodes(len(counted))
    if view.patroni.leader and len(healthy) == len(counted) and acknowledging < wanted:
        yield Issue(
            "synchronous",
            f"Commits are acknowledged by {acknowledging} standbys instead of {wanted}. This "
            "settles within seconds; if it stays, see the logs of Patroni.",
        )
    if view.patroni.config is not None and not is_configured(view.patroni.config, len(counted)):
        yield Issue(
            "patroni",
            "Patroni is configured for another number of replicas. The controllers correct this; "
            "if it stays, see ucp status.",
        )


def _managers(view: ClusterView, now: float) -> Iterator[Issue]:
    """Yield what is wrong with the control plane, as far as the registry depends on it."""
    voters = [each for each in view.managers if each.phase is ManagerPhase.VOTER]
    silent = [
        view.name_of(each.node_id)
        for each in voters
        if not view.is_fresh(view.machines.get(each.node_id), now)
    ]
    left = max(0, tolerated(len(voters)) - len(silent))
    for name in silent:
        yield Issue(
            "managers",
            f"The manager {name} does not report. {left} of {len(voters)} may still fail before no "
            "failover and no change is possible. Start the machine; if it is lost, remove it: ucp "
            f"node rm {name}.",
            is_critical=not left,
            info={"node": name},
        )
    if not silent and voters and tolerated(len(voters)) < tolerated(len(view.counted)):
        yield Issue(
            "managers",
            f"The registry survives the loss of {tolerated(len(view.counted))} machines, but its "
            f"control plane with {len(voters)} managers survives the loss of "
            f"{tolerated(len(voters))} only; after that no failover is possible. Make more nodes "
            "managers: ucp node promote.",
        )


def _replicas(view: ClusterView, now: float) -> Iterator[Issue]:
    operation = current_operation(view)
    healthy = sum(not illness(view, each, now) for each in view.counted)
    for each in view.replicas:
        info = {"replica": each.id, "node": view.name_of(each.node_id)}
        why = illness(view, each, now)
        if view.machine_of(each) is None:
            yield Issue(
                "ghost",
                f"The node of replica {each.id} was removed from UCP. Remove the replica: "
                f"dtr remove --replica-ids {each.id}.",
                info=info,
            )
        elif why and each.phase is ReplicaPhase.SERVING:
            yield Issue(
                "replica",
                f"Replica {each.id} on {info['node']} is not healthy: {why}. Mend the machine, or "
                f"replace it: dtr remove --replica-ids {each.id}, then dtr join.",
                is_critical=healthy <= len(view.counted) // 2 + 1,  # the next failure stops pushes
                info=info,
            )
        if not each.is_counted and operation is None:
            yield Issue(
                "leftover",
                f"Replica {each.id} on {info['node']} is left from an operation that failed, and "
                f"does not count. Remove it: dtr remove --replica-ids {each.id}.",
                info=info,
            )
        yield from _database(view, each, now, info)


def _database(
    view: ClusterView, replica: Replica, now: float, info: dict[str, Any]
) -> Iterator[Issue]:
    report = view.report_of(replica)
    if report is None:
        return
    for problem in report.problems:
        yield Issue("replica", f"{info['node']}: {problem}", info=info)
    is_young = now - replica.created_at < _SETTLING_SECONDS
    is_behind = bool(view.patroni.leader) and not is_streaming(view, replica, now)
    if replica.is_counted and is_behind and not is_young and not illness(view, replica, now):
        yield Issue(
            "replication",
            f"The database of replica {replica.id} does not follow the primary: it is "
            f"{report.database.state}. See the log of Patroni on {info['node']}.",
            info=info,
        )
    if report.version and report.version != view.version:
        yield Issue(
            "version",
            f"Replica {replica.id} runs version {report.version}, the control plane "
            f"{view.version}. Install the same on all machines.",
            info=info,
        )
    lag = lag_bytes(view, replica)
    if lag is not None and lag >= MUCH_LAG_BYTES:
        yield Issue(
            "lag",
            f"The database of replica {replica.id} is {lag / 2**20:.0f} MiB behind the primary. If "
            f"it does not catch up, see the disk and the network of {info['node']}.",
            info=info,
        )
    if report.storage is not None and report.storage.under_copied and replica.is_counted:
        yield Issue(
            "copies",
            f"{report.storage.under_copied} blobs have fewer copies than they should, as replica "
            f"{replica.id} counts. They are being copied; remove no replica meanwhile.",
            info=info,
        )


def _machines(view: ClusterView, now: float) -> Iterator[Issue]:
    hosts = {each.node_id for each in view.replicas} | {each.node_id for each in view.balancers}
    for node_id in sorted(hosts):
        machine = view.machines.get(node_id)
        if machine is not None and machine.report is not None and view.is_fresh(machine, now):
            yield from _machine(machine, now)


def _machine(machine: Machine, now: float) -> Iterator[Issue]:
    name, report = machine.node.name, machine.report
    if report is None:
        return
    info = {"node": name}
    total, free = report.disk_total_bytes, report.disk_free_bytes
    if total and free < total * _LEAST_FREE_SHARE:
        yield Issue(
            "disk",
            f"The disk of {name} has {free / 2**30:.1f} GiB free of {total / 2**30:.1f}. Make "
            "room, or give it a larger one: a full disk stops its replica.",
            info=info,
        )
    left = report.certificate_expires_at - now
    if report.certificate_expires_at and left < _EXPIRES_SOON_SECONDS:
        yield Issue(
            "certificate",
            f"The certificate of {name} expires in {left / _DAY:.0f} days. Its agent should have "
            "renewed it: see its log.",
            is_critical=left <= 0,
            info=info,
        )
    skew = report.received_at - report.at
    if abs(skew) >= MOST_SKEW_SECONDS:
        yield Issue(
            "clock",
            f"The clock of {name} differs by {abs(skew):.1f} s. Synchronise all machines with "
            "the same time server.",
            info=info,
        )
    for problem in report.problems:
        yield Issue("node", f"{name}: {problem}", info=info)


def _settings(view: ClusterView, now: float) -> Iterator[Issue]:
    cluster = view.cluster
    if cluster is None:
        return
    if is_read_only(view, now):
        yield Issue(
            "read-only",
            "The registry is in read-only mode and refuses pushes. dtr read-only status shows "
            "why, dtr read-only off ends it.",
        )
    behind = [
        each.id for each in view.replicas if each.settings_revision < cluster.settings_revision
    ]
    if behind and current_operation(view) is None:
        yield Issue(
            "settings",
            f"Replicas {', '.join(behind)} have older settings. Run dtr reconfigure again.",
        )
    if not cluster.web_certificate:
        return
    try:
        left = expires_at(cluster.web_certificate) - now
    except AuthorityError:
        return
    if left < _EXPIRES_SOON_SECONDS:
        yield Issue(
            "certificate",
            f"The web certificate expires in {left / _DAY:.0f} days. Give a new one: dtr "
            "reconfigure --dtr-cert FILE --dtr-key FILE.",
            is_critical=left <= 0,
        )


def _balancers(view: ClusterView, now: float) -> Iterator[Issue]:
    for each in view.balancers:
        machine = view.machines.get(each.node_id)
        name = view.name_of(each.node_id)
        report = machine.balancer if machine and view.is_fresh(machine, now) else None
        if report is None or not report.is_ready:
            why = report.message if report and report.message else "it does not report"
            yield Issue(
                "balancer",
                f"The load balancer on {name} is not ready: {why}. See that the machine and its "
                f"agent run, or remove it: dtr load-balancer remove --ucp-node {name}.",
                is_critical=len(view.balancers) == 1,
                info={"node": name},
            )
        else:
            yield from _pool(view, name, report, now)


def _pool(view: ClusterView, name: str, report: BalancerReport, now: float) -> Iterator[Issue]:
    """Yield what a balancer says of replicas, where nothing else says it of them."""
    down = sorted(each for each, state in report.pool.items() if state not in _GOOD_STATES)
    unexplained = []
    for each in down:
        replica = view.replica(each)
        is_told = replica is not None and replica.phase is ReplicaPhase.SERVING
        if not (is_told and replica is not None and illness(view, replica, now)):
            unexplained.append(each)
    info = {"node": name, "replicas": down}
    if down and len(down) == len(report.pool):
        yield Issue(
            "balancer",
            f"For the load balancer on {name} every replica is down ({', '.join(down)}): it sends "
            "connections to any of them, unchecked. See what is said of the replicas here, and the "
            f"log of haproxy on {name}.",
            is_critical=True,
            info=info,
        )
    elif unexplained:
        yield Issue(
            "balancer",
            f"The load balancer on {name} sends nothing to {', '.join(unexplained)}: it does not "
            f"get a good answer to its health checks. See whether {name} reaches that replica's "
            "ports, and the log of haproxy there.",
            info=info,
        )
