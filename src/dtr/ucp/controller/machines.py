"""What the control plane knows of all machines at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from dtr.ucp import keys
from dtr.ucp.api import ApiError
from dtr.ucp.model import Manager, ManagerPhase, Node, NodeReport, Role, Service
from dtr.ucp.store import Entry, Store

DOWN_AFTER_SECONDS: Final = 10.0
"""Five reports that did not come."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A node, with the entry that its changes are conditional on."""

    entry: Entry
    node: Node
    manager: Manager | None
    report: NodeReport | None
    services: Mapping[str, str]
    """The id of what each service of it runs, by the service's name."""

    def state(self, now: float) -> str:
        """Return `joining` until its first report, `down` without a recent one, else `ready`."""
        if self.report is None:
            return "joining"
        return "down" if now - self.report.received_at > DOWN_AFTER_SECONDS else "ready"

    def shown(self, now: float) -> dict[str, JsonValue]:
        """Return what everybody who may see nodes sees of it; no secret is in it."""
        report = self.report
        shown: dict[str, JsonValue] = {
            "id": self.node.id,
            "name": self.node.name,
            "host_address": self.node.host_address,
            "controller_port": self.node.controller_port,
            "role": str(self.node.role),
            "is_manager": self.is_voter,
            "manager_phase": str(self.manager.phase) if self.manager else "",
            "is_paused": self.node.is_paused,
            "state": self.state(now),
            "joined_at": self.node.joined_at,
            "services": dict(self.services),
        }
        if report is not None:
            shown |= {
                "reported_seconds_ago": max(0.0, round(now - report.received_at, 1)),
                "clock_skew_seconds": round(report.at - report.received_at, 3),
                "version": report.version,
                "certificate_expires_at": report.certificate_expires_at,
                "disk_total_bytes": report.disk_total_bytes,
                "disk_free_bytes": report.disk_free_bytes,
                "memory_total_bytes": report.memory_total_bytes,
                "processes": [each.model_dump(mode="json") for each in report.processes],
                "problems": list(report.problems),
            }
        return shown

    @property
    def is_voter(self) -> bool:
        """Whether it is a manager that counts."""
        return self.manager is not None and self.manager.phase is ManagerPhase.VOTER

    @property
    def controller(self) -> str:
        """`address:port` of its controller."""
        host = self.node.host_address
        return (
            f"[{host}]:{self.node.controller_port}"
            if ":" in host
            else (f"{host}:{self.node.controller_port}")
        )


@dataclass(frozen=True, slots=True)
class Machines:
    """All machines."""

    all: tuple[Machine, ...]

    def find(self, name_or_id: str) -> Machine:
        """Return a machine by its name or its id.

        Raises:
            ApiError: 404.

        """
        for machine in self.all:
            if name_or_id.lower() in {machine.node.id, machine.node.name}:
                return machine
        known = ", ".join(machine.node.name for machine in self.all[:10])
        raise ApiError(
            404, "NODE_UNKNOWN", f"There is no node {name_or_id[:80]!r}. There are: {known}."
        )

    @property
    def controllers(self) -> tuple[str, ...]:
        """`address:port` of the controllers of all voters."""
        return tuple(machine.controller for machine in self.all if machine.is_voter)

    @property
    def voters(self) -> tuple[Machine, ...]:
        """The managers that count."""
        return tuple(machine for machine in self.all if machine.is_voter)

    def has_other_manager(self, machine: Machine) -> bool:
        """Tell whether the control plane would go on without it."""
        return any(
            other.is_voter
            and other.node.id != machine.node.id
            and other.node.role is not Role.WORKER
            for other in self.all
        )


async def read_machines(store: Store) -> Machines:
    """Return all machines, by name."""
    nodes, _ = await store.list(keys.NODES)
    managers = {
        entry.key.removeprefix(keys.MANAGERS): entry.document(Manager)
        for entry in (await store.list(keys.MANAGERS))[0]
    }
    reports = {
        entry.key.removeprefix(keys.REPORTS): entry.document(NodeReport)
        for entry in (await store.list(keys.REPORTS))[0]
    }
    services: dict[str, dict[str, str]] = {}
    for entry in (await store.list(keys.SERVICES))[0]:
        node_id, _, name = entry.key.removeprefix(keys.SERVICES).partition("/")
        services.setdefault(node_id, {})[name] = _service_id(entry)
    machines = [
        Machine(
            entry,
            node := entry.document(Node),
            managers.get(node.id),
            reports.get(node.id),
            services.get(node.id, {}),
        )
        for entry in nodes
    ]
    return Machines(tuple(sorted(machines, key=lambda machine: machine.node.name)))


def _service_id(entry: Entry) -> str:
    """Return the specification's own id, where it has one; the rest of it may be secret."""
    found = entry.document(Service).specification
    return str(found.get("id", "")) if isinstance(found, dict) else ""
