"""Whatever a specification carries reaches a file or a process of the node."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.cluster_engines.nodes import REPLICA, FakeControllers, TestNode
from tests.cluster_engines.test_programs import installed
from tests.cluster_engines.test_replica import Running
from tests.support.processes import requires

from dtr.cluster.engines.balancer import BalancerComponent
from dtr.cluster.model import (
    BalancerSpecification,
    PoolMember,
    ReplicaPhase,
    ReplicaSpecification,
)
from dtr.model.members import Member
from dtr.server.certificates import ensure_certificates
from dtr.testing.supervisor import RecordingSupervisor
from dtr.ucp.authority import Authority

MEMBER = PoolMember(id="aaaaaaaaaaaa", address="10.0.0.1", https_port=443, http_port=80)
BALANCERS: dict[str, Any] = {
    "https_port": 444,
    "http_port": 81,
    "pool": (MEMBER.model_copy(update={"is_draining": True}),),
    "is_leaving": True,
}
REPLICAS: dict[str, Any] = {
    "phase": ReplicaPhase.DRAINING,
    "members": (Member(REPLICA, "node1", "127.0.0.1"), Member("ba9876543210", "n2", "10.0.0.2")),
    "is_bootstrap": True,
    "is_synchronous": False,
    "etcd_username": "another",
    "etcd_password": "another",
    "superuser_password": "another",
    "replication_password": "another",
    "rewind_password": "another",
    "database_password": "another",
    "patroni_password": "another",
    "synchronous_node_count": 2,
    "https_port": 444,
    "http_port": 81,
    "storage": "file:///srv/another",
    "settings": {"log": {"level": "debug"}},
    "external_url": "https://another.example",
    "first_administrator": "another",
    "administrator_hash": "$argon2id$another",
    "balancers": ("10.0.0.9",),
}
ELSEWHERE = {"id", "cluster_id", "settings_revision", "web_key"}
"""The first names the directory; the second is for people; a number that is only reported back; and
what goes with the certificate."""


def files(root: Path) -> dict[str, bytes]:
    """Return everything below a directory."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def test_the_tables_name_every_field() -> None:
    """A new one gets its line here, and with it a look at where it arrives."""
    certificates = {"web_certificate"}
    assert set(BalancerSpecification.model_fields) == {*BALANCERS, *certificates}
    assert set(ReplicaSpecification.model_fields) == {*REPLICAS, *certificates, *ELSEWHERE}


@pytest.mark.parametrize("field", [*BALANCERS, "web_certificate"])
async def test_every_field_reaches_the_balancer(
    node: TestNode, authority: Authority, field: str
) -> None:
    """Its configuration, what it trusts, or whether it runs."""
    requires("haproxy")
    supervisor = RecordingSupervisor()
    component = BalancerComponent(
        node.identity, node.directory, supervisor, FakeControllers(authority)
    )
    plain = BalancerSpecification(https_port=443, http_port=80, pool=(MEMBER,))
    value = BALANCERS.get(field, node.directory.certificate.read_text())
    await component.converge(node.wanted(balancer=plain))
    before = files(node.directory.of("balancer"))
    other = node.wanted(balancer=plain.model_copy(update={field: value}))
    await component.converge(other)
    if component._ending is not None:
        await asyncio.wait({component._ending})
        await component.converge(other)
    after = files(node.directory.of("balancer"))
    assert after != before
    if supervisor.processes:
        assert supervisor.calls[-1] == "reload haproxy"


@pytest.mark.parametrize("field", [*REPLICAS, "web_certificate"])
async def test_every_field_reaches_the_replica(
    node: TestNode, authority: Authority, tmp_path: Path, field: str
) -> None:
    """A file of the database or of the registry, or a directory of its own."""
    running = Running(node, authority, installed(tmp_path / "packaged", "15"))
    common = {"members": REPLICAS["members"]}
    # What only the first bootstrap takes.
    plain: dict[str, Any] = {**common, "is_bootstrap": field == "synchronous_node_count"}
    if field == "members":
        plain["members"] = REPLICAS["members"][:1]
    await running.want(**plain)
    before = files(running.node.directory.of("replicas"))
    changes = {field: REPLICAS[field]} if field in REPLICAS else _certificate(tmp_path)
    await running.want(**{**plain, **changes})
    after = files(running.node.directory.of("replicas"))
    assert after != before


def _certificate(directory: Path) -> dict[str, str]:
    made = ensure_certificates(directory / "web", ["r.example"], datetime.now(UTC))
    return {
        "web_certificate": made.cert_path.read_text(),
        "web_key": made.key_path.read_text(),
    }
