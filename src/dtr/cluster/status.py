"""How the cluster is: for `dtr status` and `/api/v0/meta/cluster_status`; pure.

The shape is the original's, with what an operator needs besides. Everything is as of the last
reports; nothing is asked while it is put together.
"""

import time
from typing import Any, Final

from dtr.cluster.issues import issues
from dtr.cluster.model import DatabaseReport, Replica, ReplicaReport
from dtr.cluster.operations import running_phase
from dtr.cluster.plan import current_operation
from dtr.cluster.plan_majority import tolerated
from dtr.cluster.specifications import pool
from dtr.cluster.view import ClusterView, illness, is_read_only, is_writable, lag_bytes
from dtr.ucp.model import ManagerPhase, NodeReport

OK: Final = "OK"
PRIMARY: Final = "primary"
STANDBY: Final = "standby"


def cluster_status(view: ClusterView, now: float) -> dict[str, Any]:
    """Return everything that is known of the cluster, as JSON can carry it."""
    replicas = [_replica(view, each, now) for each in view.replicas]
    found = issues(view, now)
    has_no_pushes = is_read_only(view, now) or not is_writable(view, now)
    primary = next((each for each in replicas if each["role"] == PRIMARY), None)
    return {
        "rethink_system_tables": {
            "cluster_config": [],
            "current_issues": [each.shown() for each in found],
            "db_config": [],
            "server_status": [_server(view, each, now) for each in view.replicas],
        },
        "replica_health": {each["id"]: each["health"] for each in replicas},
        "replica_timestamp": {each["id"]: _rfc3339(each["reported_at"]) for each in replicas},
        "replica_readonly": {each["id"]: has_no_pushes for each in replicas},
        "gc_lock_holder": "",
        "reported_at": now,
        "is_installed": view.cluster is not None,
        "version": view.version,
        "storage": view.cluster.storage if view.cluster else "",
        "external_url": view.cluster.external_url if view.cluster else "",
        "settings_revision": view.cluster.settings_revision if view.cluster else 0,
        "primary": primary["id"] if primary else "",
        "is_writable": is_writable(view, now),
        "is_read_only": is_read_only(view, now),
        "replicas": replicas,
        "balancers": [_balancer(view, each.node_id, now) for each in view.balancers],
        "pool": [each.model_dump(mode="json") for each in pool(view)],
        "managers": _managers(view, now),
        "failures_tolerated": {
            "replicas": replicas_still_tolerated(view, now),
            "managers": managers_still_tolerated(view, now),
        },
        "operation": _operation(view),
    }


def replicas_still_tolerated(view: ClusterView, now: float) -> int:
    """Return how many more replicas may fail now without a loss or a pause of writes."""
    count = len(view.counted)
    failed = sum(bool(illness(view, each, now)) for each in view.counted)
    return max(0, tolerated(count) - failed)


def managers_still_tolerated(view: ClusterView, now: float) -> int:
    """Return how many more managers may fail now without an end of joining and failing over."""
    voters = [each for each in view.managers if each.phase is ManagerPhase.VOTER]
    failed = sum(not view.is_fresh(view.machines.get(each.node_id), now) for each in voters)
    return max(0, tolerated(len(voters)) - failed)


def _replica(view: ClusterView, replica: Replica, now: float) -> dict[str, Any]:
    machine, report = view.machine_of(replica), view.report_of(replica)
    node_report = machine.report if machine else None
    database = report.database if report else DatabaseReport()
    return {
        "id": replica.id,
        "node": view.name_of(replica.node_id),
        "node_id": replica.node_id,
        "address": machine.node.host_address if machine else "",
        "https_port": replica.https_port,
        "http_port": replica.http_port,
        "role": _role(view, replica, report),
        "phase": str(replica.phase),
        "is_counted": replica.is_counted,
        "is_synchronous": replica.id in view.patroni.voters,
        "health": illness(view, replica, now) or OK,
        "database_state": database.state,
        "timeline": database.timeline,
        "wal_position": database.wal_position,
        "lag_bytes": lag_bytes(view, replica),
        "last_transaction_at": database.last_transaction_at,
        "version": report.version if report else "",
        "database_version": database.version,
        "settings_revision": report.settings_revision if report else 0,
        "storage": report.storage.model_dump() if report and report.storage else None,
        "created_at": replica.created_at,
        **_machine(node_report, now),
    }


def _role(view: ClusterView, replica: Replica, report: ReplicaReport | None) -> str:
    if view.patroni.leader == replica.id:
        return PRIMARY
    return STANDBY if report is not None and report.database.is_answering else ""


def _machine(report: NodeReport | None, now: float) -> dict[str, Any]:
    return {
        "reported_at": report.received_at if report else None,
        "report_age_seconds": round(now - report.received_at, 1) if report else None,
        "disk_total_bytes": report.disk_total_bytes if report else 0,
        "disk_free_bytes": report.disk_free_bytes if report else 0,
        "certificate_expires_at": report.certificate_expires_at if report else None,
        "agent_version": report.version if report else "",
    }


def _server(view: ClusterView, replica: Replica, now: float) -> dict[str, Any]:
    """Return a replica as a row of the original's table `server_status`."""
    machine = view.machine_of(replica)
    address = machine.node.host_address if machine else ""
    others = [each for each in view.replicas if each.id != replica.id]
    return {
        "id": replica.id,
        "name": view.name_of(replica.node_id),
        "network": {
            "hostname": view.name_of(replica.node_id),
            "canonical_addresses": [{"host": address, "port": replica.https_port}],
            "connected_to": {each.id: not illness(view, each, now) for each in others},
            "time_connected": _rfc3339(replica.created_at),
        },
    }


def _balancer(view: ClusterView, node_id: str, now: float) -> dict[str, Any]:
    balancer, machine = view.balancer_on(node_id), view.machines.get(node_id)
    report = machine.balancer if machine else None
    return {
        "node": view.name_of(node_id),
        "node_id": node_id,
        "address": machine.node.host_address if machine else "",
        "https_port": balancer.https_port if balancer else 0,
        "http_port": balancer.http_port if balancer else 0,
        "is_ready": report is not None and report.is_ready and view.is_fresh(machine, now),
        "pool": dict(report.pool) if report else {},
        "message": report.message if report else "it has not reported yet",
    }


def _managers(view: ClusterView, now: float) -> list[dict[str, Any]]:
    return [
        {
            "node": view.name_of(each.node_id),
            "node_id": each.node_id,
            "address": machine.node.host_address if machine else "",
            "phase": str(each.phase),
            "is_reporting": view.is_fresh(machine, now),
        }
        for each in view.managers
        for machine in (view.machines.get(each.node_id),)
    ]


def _operation(view: ClusterView) -> dict[str, Any] | None:
    operation = current_operation(view)
    if operation is None:
        return None
    phase = running_phase(operation)
    return {
        "id": operation.id,
        "kind": operation.kind,
        "created_by": operation.created_by,
        "created_at": operation.created_at,
        "phase": phase.name if phase else "",
        "message": phase.message if phase else "",
        "error": operation.error,
    }


def _rfc3339(moment: float | None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)) if moment else ""
