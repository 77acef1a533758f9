"""How a machine becomes a node: `POST /nodes`."""

import hashlib
import ipaddress
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from dtr.ucp import keys
from dtr.ucp.api import Access, ApiError, ApiRequest, ApiRoute
from dtr.ucp.authority import (
    MAX_REQUEST_BYTES,
    Authority,
    AuthorityError,
    checked_host_address,
    checked_name,
    fingerprint,
    new_node_id,
    node_names,
)
from dtr.ucp.controller.budget import Rate, WriteBudget
from dtr.ucp.controller.machines import Machine, Machines, read_machines
from dtr.ucp.controller.names import web_names
from dtr.ucp.controller.tokens import admitted
from dtr.ucp.model import CONTROLLER_PORT, ClusterRecord, Node, Role
from dtr.ucp.store import IsUnchanged, Put

MAX_NODES: Final = 500
JOINS: Final = Rate(burst=100, per_second=5)
"""Of all machines together that have a token."""
_ATTEMPTS: Final = 5


class JoinRequest(BaseModel):
    """What a machine tells about itself; all of it is checked."""

    model_config = ConfigDict(extra="ignore")

    secret: str = Field(max_length=128)
    """The last part of the join token."""
    csr: str = Field(max_length=MAX_REQUEST_BYTES)
    name: str = Field(max_length=253)
    host_address: str = Field(max_length=64)
    role: Role = Role.AUTO


class Joining:
    """Lets machines in that have the join token."""

    def __init__(
        self,
        authority: Authority,
        controller_port: int = CONTROLLER_PORT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._authority = authority
        self._port = controller_port
        self._budget = WriteBudget(JOINS, monotonic)

    def routes(self) -> list[ApiRoute]:
        """Return the one route there is."""
        return [ApiRoute("POST", "/nodes", Access.OPEN, self.join)]

    async def join(self, request: ApiRequest) -> JsonValue:
        """Make a node and certify it.

        Said again with the same key, name and address, it is the same node: the answer may have
        been lost.
        """
        asked = JoinRequest.model_validate(request.body)
        await admitted(request.store, asked.secret, request.now)
        self._budget.spend("", 1)
        name, address = _checked(asked)
        cluster = await request.store.get(keys.CLUSTER)
        if cluster is None:
            raise ApiError(503, "UNAVAILABLE", "The control plane is not set up yet. Try again.")
        digest = _key_digest(asked.csr)
        names = (*node_names(name, address), *await web_names(request.store))
        for _ in range(_ATTEMPTS):
            guard = await request.store.get(keys.JOINS)
            admission = await admitted(request.store, asked.secret, request.now)
            machines = await read_machines(request.store)
            known = _known(machines, name, address, digest)
            node_id = known.node.id if known else new_node_id()
            certificate = self._authority.sign(
                asked.csr,
                common_name=node_id,
                names=names,
                now=datetime.fromtimestamp(request.now, UTC),
            )
            node = Node(
                id=node_id,
                name=name,
                host_address=address,
                role=admission.role(asked.role),
                fingerprint=fingerprint(certificate),
                key_digest=digest,
                controller_port=self._port,
                joined_at=request.now,
            )
            if await request.store.commit(
                [
                    Put(keys.node(node_id), node.encoded()),
                    Put(keys.JOINS, node_id.encode()),
                    # An answer that was lost makes the same node again, and is no second use.
                    *([] if known else [admission.used(request.now)]),
                ],
                [
                    admission.condition,
                    IsUnchanged(keys.node(node_id), known.entry.modified if known else 0),
                    IsUnchanged(keys.JOINS, guard.modified if guard else 0),
                ],
            ):
                return {
                    "node_id": node_id,
                    "cluster_id": cluster.document(ClusterRecord).id,
                    "certificate": certificate,
                    "ca": self._authority.certificate_pem,
                    "controllers": list(machines.controllers),
                    "role": str(node.role),
                }
        raise ApiError(503, "BUSY", "Too many machines join at once. Try again.")


def _checked(asked: JoinRequest) -> tuple[str, str]:
    """Return the name and the address in the one form that they are kept in."""
    name = checked_name(asked.name)
    address = checked_host_address(asked.host_address)
    if name.startswith("*") or _is_address(name):
        raise AuthorityError("A node's name is a host name.")
    return name, address


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _known(machines: Machines, name: str, address: str, digest: str) -> Machine | None:
    """Return the node that it is already; None for a new one."""
    for machine in machines.all:
        node = machine.node
        # A node of before addresses had one form may be here in another.
        own = checked_host_address(node.host_address)
        if name != node.name and address != own:
            continue
        if (name, address, digest) == (node.name, own, node.key_digest) and (
            machine.report is None
        ):
            return machine
        what = f"called {name}" if name == node.name else f"at {address}"
        raise ApiError(
            409,
            "NODE_EXISTS",
            f"There is a node {what} already. If it is gone for good, remove it with "
            f"'ucp node rm {node.name}' and join again; else choose another --node-name or "
            "--host-address.",
        )
    if len(machines.all) >= MAX_NODES:
        raise ApiError(409, "TOO_MANY_NODES", f"UCP manages at most {MAX_NODES} nodes.")
    return None


def _key_digest(request_pem: str) -> str:
    try:
        key = x509.load_pem_x509_csr(request_pem.encode()).public_key()
    except ValueError:
        raise AuthorityError("The certificate request is not in PEM format.") from None
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()
