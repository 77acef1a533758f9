"""Nodes, specifications and controllers for tests of the engines."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import JsonValue

from dtr.cluster.model import ReplicaPhase, ReplicaSpecification
from dtr.model.errors import UnavailableError
from dtr.model.members import Member
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.api import ApiError
from dtr.ucp.authority import Authority, Purpose, fingerprint, make_request, node_names
from dtr.ucp.model import Node, NodeIdentity, NodeKeys, Wanted

REPLICA = "0123456789ab"


@dataclass(frozen=True)
class TestNode:
    """A directory with a node's identity in it."""

    __test__ = False

    directory: NodeDirectory
    identity: NodeIdentity
    node: Node

    @classmethod
    def create(cls, authority: Authority, root: Path, address: str, name: str = "node1") -> Self:
        """Make the directory as an installation does."""
        directory = NodeDirectory(root)
        root.mkdir(mode=0o711)
        directory.ca.parent.mkdir(mode=0o700)
        made = make_request()
        node_id = f"{name:x<26}"
        certificate = authority.sign(
            made.request_pem,
            common_name=node_id,
            names=node_names(name, address),
            now=datetime.now(UTC),
        )
        directory.ca.write_text(authority.certificate_pem)
        directory.certificate.write_text(certificate)
        directory.key.write_text(made.key_pem)
        node = Node(
            id=node_id,
            name=name,
            host_address=address,
            fingerprint=fingerprint(certificate),
            joined_at=0,
        )
        identity = NodeIdentity(
            node_id=node_id, name=name, host_address=address, cluster_id="c", controllers=()
        )
        return cls(directory, identity, node)

    def wanted(
        self,
        etcd_urls: tuple[str, ...] = ("https://10.0.0.1:2379",),
        keys: NodeKeys | None = None,
        **services: Any,
    ) -> Wanted:
        """Give what a controller says; services by name."""
        return Wanted(
            revision=1,
            cluster_id="c",
            node=self.node,
            controllers=(),
            etcd_urls=etcd_urls,
            keys=keys,
            services={name: each.model_dump(mode="json") for name, each in services.items()},
        )


@dataclass
class FakeControllers:
    """Answers as a controller does, with certificates of the authority; or not at all."""

    authority: Authority
    is_silent: bool = False
    refused: str = ""
    """A name that this node may not have in a certificate."""
    calls: list[tuple[str, str, JsonValue]] = field(default_factory=list)
    status: JsonValue = None
    now: float | None = None

    async def call(self, method: str, path: str, body: JsonValue = None) -> JsonValue:
        """Answer."""
        self.calls.append((method, path, body))
        if self.is_silent:
            raise UnavailableError("no controller answered")
        if path == "/dtr/status":
            return self.status
        if path == "/agent/time":
            return {"now": self.now}
        assert isinstance(body, dict)
        names = body["names"] or node_names("node1", "127.0.0.1")
        assert isinstance(names, list | tuple)
        if self.refused in names:
            raise ApiError(
                403, "NAME_REFUSED", f"This node may not get a certificate for {self.refused}."
            )
        certificate = self.authority.sign(
            str(body["csr"]),
            common_name="web",
            names=[str(name) for name in names],
            now=datetime.now(UTC),
            purpose=Purpose(str(body["purpose"])),
        )
        return {"certificate": certificate}


def specification(**changes: Any) -> ReplicaSpecification:
    """Give a specification of a lone replica that serves."""
    values: dict[str, Any] = {
        "id": REPLICA,
        "cluster_id": "c",
        "phase": ReplicaPhase.SERVING,
        "members": (Member(REPLICA, "node1", "127.0.0.1"),),
        "etcd_username": f"patroni-{REPLICA}",
        "etcd_password": "etcd-secret",
        "superuser_password": "superuser-secret",
        "replication_password": "replication-secret",
        "rewind_password": "rewind-secret",
        "database_password": "database-secret",
        "patroni_password": "patroni-secret",
        "synchronous_node_count": 0,
        "https_port": 443,
        "http_port": 80,
        "storage": "file:///srv/registry",
        "administrator_hash": "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2g",
    }
    return ReplicaSpecification.model_validate({**values, **changes})
