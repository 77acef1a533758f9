"""What nodes are told follows from the records, field by field."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue
from tests.cluster_plan.simulation import Simulation, cluster_of

from dtr.cluster.api import bring_certificate
from dtr.cluster.model import (
    BALANCER_SERVICE,
    REPLICA_SERVICE,
    Balancer,
    BalancerSpecification,
    DtrCluster,
    DtrSecrets,
    Replica,
    ReplicaPhase,
    ReplicaSpecification,
)
from dtr.cluster.operations import INSTALL_BALANCER
from dtr.cluster.plan_actions import PutService
from dtr.cluster.specifications import certificates_in, service_changes
from dtr.cluster.view import ClusterView, Machine
from dtr.server.certificates import ensure_certificates
from dtr.ucp.api import ApiRequest
from dtr.ucp.model import Node, Operation, OperationState

NODE = Node(id="n1", name="node1", host_address="10.0.0.1", fingerprint="f", joined_at=0)
OTHER = Node(id="n2", name="node2", host_address="10.0.0.2", fingerprint="f", joined_at=0)
PEM = "-----BEGIN CERTIFICATE-----\nMTE=\n-----END CERTIFICATE-----\n"


def told(*, is_plain: bool) -> dict[str, dict[str, Any]]:
    """Return what node1 is told by records that differ in everything: service by name."""
    other = "" if is_plain else "other "
    number = 0 if is_plain else 1
    replica = Replica(
        id=f"{number + 1:012x}",
        node_id="n1",
        phase=ReplicaPhase.SERVING if is_plain else ReplicaPhase.DRAINING,
        https_port=443 + number,
        http_port=80 + number,
        created_at=2,
        is_counted=not is_plain,
        settings_revision=number,
    )
    second = Replica(
        id=f"{9:012x}", node_id="n2", phase=ReplicaPhase.SERVING, created_at=3, is_counted=True
    )
    view = ClusterView(
        machines={each.id: Machine(each) for each in (NODE, OTHER)},
        replicas=(replica,) if is_plain else (replica, second),
        balancers=(
            Balancer(
                node_id="n1",
                https_port=443 + number,
                http_port=80 + number,
                is_leaving=not is_plain,
            ),
            *(() if is_plain else (Balancer(node_id="n2"),)),
        ),
        cluster=DtrCluster(
            id=f"{other}cluster",
            storage="replicated" if is_plain else "file:///srv",
            settings={} if is_plain else {"log": {"level": "debug"}},
            external_url="" if is_plain else "https://r.example",
            web_certificate="" if is_plain else PEM,
            settings_revision=number,
            first_administrator=f"{other}admin",
            created_at=0,
        ),
        secrets=DtrSecrets(
            superuser_password=f"{other}1",
            replication_password=f"{other}2",
            rewind_password=f"{other}3",
            database_password=f"{other}4",
            patroni_password=f"{other}5",
            web_key="" if is_plain else "key",
            administrator_hash=f"{other}6",
            etcd_passwords={replica.id: f"{other}7"},
        ),
    )
    return {
        each.name: dict(each.specification)  # type: ignore[arg-type]
        for each in service_changes(view)
        if isinstance(each, PutService) and each.node_id == "n1"
    }


@pytest.mark.parametrize(
    ("service", "form"),
    [(REPLICA_SERVICE, ReplicaSpecification), (BALANCER_SERVICE, BalancerSpecification)],
)
def test_every_field_of_a_specification_follows_from_the_records(
    service: str, form: type[ReplicaSpecification | BalancerSpecification]
) -> None:
    """A field that no record reaches would have its default on every machine, for ever."""
    plain, other = told(is_plain=True)[service], told(is_plain=False)[service]
    same = {name for name in form.model_fields if plain[name] == other[name]}
    assert same == set()


def test_no_key_reaches_a_balancer() -> None:
    """A file of the user's may hold the key beside the certificate."""
    mixed = f"subject: me\r\n{PEM}-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"
    assert certificates_in(mixed) == (PEM.strip(),)


async def brought(simulation: Simulation, directory: Path) -> tuple[str, str]:
    """Bring a fresh web certificate; return its id and its PEM."""
    made = ensure_certificates(directory, ["r.example"], datetime.now(UTC))
    body: dict[str, JsonValue] = {
        "certificate": made.cert_path.read_text(),
        "key": made.key_path.read_text(),
    }
    request = ApiRequest(store=simulation.store, caller="admin", body=body, now=simulation.now)
    answer = await bring_certificate(request)
    assert isinstance(answer, dict)
    return str(answer["id"]), str(body["certificate"])


@pytest.mark.parametrize("is_refused", [False, True])
async def test_balancers_trust_each_certificate_for_as_long_as_a_replica_may_show_it(
    tmp_path: Path, *, is_refused: bool
) -> None:
    """While replicas take another one in turn, and while they go back to the one before."""
    simulation = await cluster_of(3, machines=4)
    simulation.now = datetime.now(UTC).timestamp()
    await simulation.tick(2)
    await simulation.run(INSTALL_BALANCER, node="node4")
    first_id, first = await brought(simulation, tmp_path / "a")
    done = await simulation.run("reconfigure", certificate_id=first_id)
    assert done.state is OperationState.SUCCEEDED, done.error
    second_id, second = await brought(simulation, tmp_path / "b")
    for number in (1, 2, 3):
        simulation.machine(number).refuses_settings = is_refused
    operation_id = await simulation.start("reconfigure", certificate_id=second_id)
    done = await _exchanged(simulation, operation_id)
    assert (done.state is OperationState.FAILED) is is_refused, done.error
    await simulation.tick(2)
    balancer = simulation.machine(4).balancer
    assert balancer is not None
    left = set(certificates_in(balancer.web_certificate))
    assert left == set(certificates_in(first if is_refused else second))


async def _exchanged(simulation: Simulation, operation_id: str) -> Operation:
    for _ in range(2000):
        operation = await simulation.operation(operation_id)
        if operation.state is not OperationState.RUNNING:
            return operation
        shown = {
            certificate
            for number in (1, 2, 3)
            if (specification := simulation.machine(number).specification) is not None
            for certificate in certificates_in(specification.web_certificate)
        }
        await simulation.tick()
        balancer = simulation.machine(4).balancer
        assert balancer is not None
        assert shown <= set(certificates_in(balancer.web_certificate))
    raise AssertionError("it did not end")
