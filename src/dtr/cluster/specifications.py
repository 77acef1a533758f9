"""What each node is to run, as it follows from the records; pure.

A node whose replica has no record any more is told to delete what it has, for as long as it takes
it to say that it did: machines that were away when their replica was removed clean up when they
return.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import JsonValue

from dtr.cluster.model import (
    BALANCER_SERVICE,
    REPLICA_SERVICE,
    Balancer,
    BalancerSpecification,
    DtrCluster,
    DtrSecrets,
    PoolMember,
    Replica,
    ReplicaPhase,
    ReplicaSpecification,
)
from dtr.cluster.plan_actions import Action, DeleteService, PutService
from dtr.cluster.plan_majority import synchronous_nodes
from dtr.cluster.view import ClusterView, Machine
from dtr.model.members import Member, MemberState

ETCD_USER_PREFIX: Final = "patroni-"
_TAKEN_IN_TURN: Final = (
    "settings",
    "settings_revision",
    "external_url",
    "web_certificate",
    "web_key",
)
"""What a replica gets when its turn comes in `dtr reconfigure`, and not before."""
_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
)
_MOST_CHANGES: Final = 50
"""So many fit into one transaction; the rest follows in the next."""


def service_changes(view: ClusterView) -> tuple[Action, ...]:
    """Return what tells every node what it is to run, where it has been told something else."""
    changes: list[Action] = []
    for node_id, name, wanted in _wanted(view):
        told = view.services.get((node_id, name))
        if wanted is not None and wanted != told:
            changes.append(PutService(node_id, name, wanted))
    changes += [DeleteService(node_id, name) for node_id, name in _finished(view)]
    return tuple(changes[:_MOST_CHANGES])


def members(view: ClusterView) -> tuple[Member, ...]:
    """Return the replicas that have data, as the registry's processes are to know them."""
    found = []
    for replica in view.replicas:
        machine = view.machine_of(replica)
        if machine is not None and replica.phase is not ReplicaPhase.LEAVING:
            node = machine.node
            found.append(
                Member(replica.id, node.id, node.host_address, state=member_state(replica))
            )
    return tuple(found)


def member_state(replica: Replica) -> MemberState:
    """Return how far a replica takes part."""
    if replica.phase is ReplicaPhase.DRAINING:
        return MemberState.DRAINING
    return MemberState.SERVING if replica.is_counted else MemberState.JOINING


def pool(view: ClusterView) -> tuple[PoolMember, ...]:
    """Return the replicas that balancers send to."""
    found = []
    for replica in view.replicas:
        machine = view.machine_of(replica)
        is_draining = replica.phase is ReplicaPhase.DRAINING
        is_serving = replica.phase is ReplicaPhase.SERVING and replica.is_counted
        if machine is not None and (is_serving or is_draining):
            found.append(
                PoolMember(
                    id=replica.id,
                    address=machine.node.host_address,
                    https_port=replica.https_port,
                    http_port=replica.http_port,
                    is_draining=is_draining,
                    proxy_port=_proxy_port(replica, machine),
                )
            )
    return tuple(found)


def _proxy_port(replica: Replica, machine: Machine) -> int:
    """Return what the running registry said: one of an older version does not take the head."""
    report = machine.replica
    return report.proxy_port if report is not None and report.id == replica.id else 0


def _balancer_addresses(view: ClusterView) -> tuple[str, ...]:
    machines = (view.machines.get(each.node_id) for each in view.balancers)
    return tuple(sorted({each.node.host_address for each in machines if each is not None}))


def _wanted(view: ClusterView) -> Iterator[tuple[str, str, JsonValue]]:
    """Yield what each node is to be told; None where what it was told stands."""
    for node_id, machine in sorted(view.machines.items()):
        yield node_id, REPLICA_SERVICE, _replica_service(view, machine)
        yield node_id, BALANCER_SERVICE, _balancer_service(view, machine)


def _replica_service(view: ClusterView, machine: Machine) -> JsonValue:
    node_id = machine.node.id
    replica, told = view.replica_on(node_id), view.services.get((node_id, REPLICA_SERVICE))
    if replica is not None and replica.phase is not ReplicaPhase.LEAVING:
        if view.cluster is None or view.secrets is None:
            return None
        return _dump(_specification(view, view.cluster, view.secrets, replica, told))
    if replica is not None:
        return _dump(_leaving(replica.id, replica.https_port, replica.http_port))
    if isinstance(told, dict) and told.get("phase") != ReplicaPhase.LEAVING:
        return _dump(_leaving(str(told.get("id", "")), _port(told, "https"), _port(told, "http")))
    return None


def _specification(
    view: ClusterView,
    cluster: DtrCluster,
    secrets: DtrSecrets,
    replica: Replica,
    told: JsonValue,
) -> ReplicaSpecification:
    has_counted = bool(view.counted)
    values: dict[str, Any] = {
        "settings": cluster.settings,
        "settings_revision": cluster.settings_revision,
        "external_url": cluster.external_url,
        "web_certificate": cluster.web_certificate,
        "web_key": secrets.web_key,
    }
    is_own = isinstance(told, dict) and told.get("id") == replica.id
    if replica.settings_revision < cluster.settings_revision and is_own:
        assert isinstance(told, dict)  # noqa: S101 - is_own
        values.update({name: told[name] for name in _TAKEN_IN_TURN if name in told})
    return ReplicaSpecification(
        id=replica.id,
        cluster_id=cluster.id,
        phase=replica.phase,
        members=members(view),
        is_bootstrap=not has_counted and replica.id == _first(view).id,
        is_synchronous=replica.is_counted,
        etcd_username=f"{ETCD_USER_PREFIX}{replica.id}",
        etcd_password=secrets.etcd_passwords.get(replica.id, ""),
        superuser_password=secrets.superuser_password,
        replication_password=secrets.replication_password,
        rewind_password=secrets.rewind_password,
        database_password=secrets.database_password,
        patroni_password=secrets.patroni_password,
        synchronous_node_count=synchronous_nodes(max(1, len(view.counted))),
        https_port=replica.https_port,
        http_port=replica.http_port,
        storage=cluster.storage,
        first_administrator=cluster.first_administrator,
        administrator_hash=secrets.administrator_hash,
        balancers=_balancer_addresses(view),
        **values,
    )


def _leaving(replica_id: str, https_port: int, http_port: int) -> ReplicaSpecification:
    """Return what ends a replica; it has no secret, since nothing is to be started."""
    return ReplicaSpecification(
        id=replica_id,
        cluster_id="",
        phase=ReplicaPhase.LEAVING,
        members=(),
        etcd_username="",
        etcd_password="",
        superuser_password="",
        replication_password="",
        rewind_password="",
        database_password="",
        patroni_password="",
        synchronous_node_count=0,
        https_port=https_port,
        http_port=http_port,
        storage="",
    )


def _balancer_service(view: ClusterView, machine: Machine) -> JsonValue:
    node_id = machine.node.id
    balancer = view.balancer_on(node_id)
    if balancer is not None:
        return _dump(_balancer(view, balancer))
    told = view.services.get((node_id, BALANCER_SERVICE))
    if isinstance(told, dict) and not told.get("is_leaving"):
        return {**told, "is_leaving": True}
    return None


def _balancer(view: ClusterView, balancer: Balancer) -> BalancerSpecification:
    return BalancerSpecification(
        https_port=balancer.https_port,
        http_port=balancer.http_port,
        pool=pool(view),
        web_certificate=_shown_certificates(view),
        is_leaving=balancer.is_leaving,
    )


def _shown_certificates(view: ClusterView) -> str:
    """Return every certificate of the user's that a replica may be showing now.

    While `dtr reconfigure` brings a new one, replicas take it one after the other, and go back to
    the old one if that fails: health checks trust both until it ends. No key is ever among them,
    whatever the user's file holds.
    """
    found = [view.cluster.web_certificate] if view.cluster else []
    before = view.certificates.get(view.lock)
    if before is not None:
        found.append(before.certificate)
    for (_, name), told in sorted(view.services.items()):
        if name == REPLICA_SERVICE and isinstance(told, dict):
            found.append(str(told.get("web_certificate") or ""))
    blocks = dict.fromkeys(block for pem in found for block in certificates_in(pem))
    return "".join(f"{block}\n" for block in blocks)


def certificates_in(pem: str) -> tuple[str, ...]:
    r"""Return the certificates of a PEM text; keys, comments and blank lines are left out.

    >>> block = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
    >>> certificates_in(f"subject: me\r\n{block}\n-----BEGIN PRIVATE KEY-----\n") == (block,)
    True
    """
    return tuple(found.replace("\r", "") for found in _CERTIFICATE.findall(pem))


def _finished(view: ClusterView) -> Iterator[tuple[str, str]]:
    """Yield what nodes have been told for the last time, and that of nodes that are gone."""
    for node_id, name in view.services:
        machine = view.machines.get(node_id)
        told = view.services[node_id, name]
        if machine is None:
            yield node_id, name
        elif name == REPLICA_SERVICE and view.replica_on(node_id) is None:
            report = machine.replica
            is_same = isinstance(told, dict) and report is not None and told.get("id") == report.id
            if is_same and report is not None and report.is_data_deleted:
                yield node_id, name
        elif name == BALANCER_SERVICE and view.balancer_on(node_id) is None:
            is_told = isinstance(told, dict) and told.get("is_leaving")
            if is_told and machine.balancer is not None and machine.balancer.is_gone:
                yield node_id, name


def _first(view: ClusterView) -> Replica:
    return min(view.replicas, key=lambda each: (each.created_at, each.id))


def _port(told: Mapping[str, JsonValue], name: str) -> int:
    value = told.get(f"{name}_port")
    return value if isinstance(value, int) else 0


def _dump(specification: ReplicaSpecification | BalancerSpecification) -> JsonValue:
    dumped: JsonValue = specification.model_dump(mode="json")
    return dumped
