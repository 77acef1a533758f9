"""Back from the user's web certificate to the generated one: `dtr reconfigure --generated-cert`."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import JsonValue
from tests.cluster_engines.nodes import FakeControllers, TestNode
from tests.cluster_engines.test_programs import installed
from tests.cluster_engines.test_replica import Running
from tests.cluster_plan.simulation import Simulation, cluster_of
from tests.support.processes import requires

from dtr.cluster.api import bring_certificate
from dtr.cluster.engines.balancer import BalancerComponent
from dtr.cluster.model import BalancerSpecification, ReplicaSpecification
from dtr.server.certificates import ensure_certificates
from dtr.testing.supervisor import RecordingSupervisor
from dtr.ucp.api import ApiError, ApiRequest
from dtr.ucp.authority import Authority
from dtr.ucp.model import OperationState


async def with_certificate(directory: Path, simulation: Simulation) -> tuple[str, str]:
    """Bring a certificate of the user's, as the command does; give it and its key."""
    made = ensure_certificates(directory, ["r.example"], datetime.now(UTC))
    certificate, key = made.cert_path.read_text(), made.key_path.read_text()
    simulation.now = datetime.now(UTC).timestamp()
    body: dict[str, JsonValue] = {"certificate": certificate, "key": key}
    brought = await bring_certificate(
        ApiRequest(store=simulation.store, caller="admin", body=body, now=simulation.now)
    )
    assert isinstance(brought, dict)
    done = await simulation.run("reconfigure", certificate_id=brought["id"])
    assert done.state is OperationState.SUCCEEDED, done.error
    return certificate, key


async def test_the_users_certificate_and_key_are_given_up(tmp_path: Path) -> None:
    """In the record, in what replicas and balancers are told, and in what was put aside."""
    simulation = await cluster_of(2, machines=3)
    await simulation.run("load-balancer-install", node="node3")
    certificate, key = await with_certificate(tmp_path, simulation)
    assert certificate.strip() in told_to(simulation)
    done = await simulation.run("reconfigure", is_certificate_generated=True)
    assert done.state is OperationState.SUCCEEDED, done.error
    await simulation.tick(2)
    assert certificate.strip() not in told_to(simulation)
    kept = b"".join(entry.value for entry in simulation.entries().values()).decode()
    for secret in (certificate, key):
        assert secret.replace("\n", "\\n") not in kept


async def test_a_replica_that_cannot_show_it_takes_all_back(tmp_path: Path) -> None:
    """The user's certificate is in its place again, with its key."""
    simulation = await cluster_of(3)
    certificate, key = await with_certificate(tmp_path, simulation)
    simulation.machine(2).refuses_settings = True
    done = await simulation.run("reconfigure", is_certificate_generated=True, seconds=3000)
    assert done.state is OperationState.FAILED
    view = await simulation.view()
    assert view.cluster is not None
    assert view.secrets is not None
    assert (view.cluster.web_certificate, view.secrets.web_key) == (certificate, key)
    assert view.certificates == {}


async def test_where_it_is_in_use_already_nothing_is_lost() -> None:
    """The command may be repeated; with a certificate of the user's it is refused."""
    simulation = await cluster_of(1)
    done = await simulation.run("reconfigure", is_certificate_generated=True)
    assert done.state is OperationState.SUCCEEDED, done.error
    with pytest.raises(ApiError, match="not both"):
        await simulation.start("reconfigure", is_certificate_generated=True, certificate_id="x")


async def test_every_file_of_the_users_is_replaced(
    node: TestNode, authority: Authority, tmp_path: Path
) -> None:
    """From what nodes are told to their files: what is shown, its key, and what is trusted."""
    requires("haproxy")
    simulation = await cluster_of(1, machines=2)
    await simulation.run("load-balancer-install", node="node2")
    running = Running(node, authority, installed(tmp_path / "packaged", "15"))
    balancer = BalancerComponent(
        node.identity, node.directory, RecordingSupervisor(), FakeControllers(authority)
    )

    async def converge() -> dict[str, str]:
        await simulation.tick(2)
        replica, pool = simulation.machine(1).specification, simulation.machine(2).balancer
        assert isinstance(replica, ReplicaSpecification)
        assert isinstance(pool, BalancerSpecification)
        taken = ("web_certificate", "web_key", "settings_revision")
        await running.want(**{name: getattr(replica, name) for name in taken})
        await balancer.converge(node.wanted(balancer=pool))
        roots = (running.root() / "registry", node.directory.of("balancer"))
        return await asyncio.to_thread(texts, *roots)

    certificate, key = await with_certificate(tmp_path / "users", simulation)
    with_users = await converge()
    assert with_users["registry/web.crt"] == certificate
    assert certificate.strip() in with_users["balancer/ca.crt"]
    assert "tls_ca" not in with_users["registry/dtr.toml"]
    await simulation.run("reconfigure", is_certificate_generated=True)
    after = await converge()
    assert "tls_ca" in after["registry/dtr.toml"]
    assert after["registry/web.crt"].startswith("-----BEGIN CERTIFICATE-----")
    for name, content in after.items():
        assert certificate.strip() not in content, name
        assert key.strip() not in content, name


def told_to(simulation: Simulation) -> str:
    """Give all certificates that nodes have been told."""
    found = [simulation.machine(number).specification for number in (1, 2)]
    balancer = simulation.machine(3).balancer
    told = [each.web_certificate for each in (*found, balancer) if each is not None]
    assert len(told) == len(found) + 1
    return "\n".join(told)


def texts(*roots: Path) -> dict[str, str]:
    """Give what all files below some directories hold."""
    return {
        f"{root.name}/{path.name}": path.read_text()
        for root in roots
        for path in root.rglob("*")
        if path.is_file()
    }
