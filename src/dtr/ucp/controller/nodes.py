"""Nodes, as administrators see and change them."""

from collections.abc import Sequence

from pydantic import JsonValue

from dtr.ucp import keys
from dtr.ucp.api import Access, ApiError, ApiRequest, ApiRoute
from dtr.ucp.controller.machines import Machine, Machines, read_machines
from dtr.ucp.model import Role
from dtr.ucp.store import Change, Delete, IsUnchanged, Put

_ATTEMPTS = 5


def node_routes() -> list[ApiRoute]:
    """Return the routes of `ucp node` and of whoever chooses a node."""
    return [
        ApiRoute("GET", "/nodes", Access.ADMINISTRATOR, list_nodes),
        ApiRoute("GET", "/nodes/{node}", Access.ADMINISTRATOR, show_node),
        ApiRoute("POST", "/nodes/{node}/promote", Access.ADMINISTRATOR, promote),
        ApiRoute("POST", "/nodes/{node}/demote", Access.ADMINISTRATOR, demote),
        ApiRoute("POST", "/nodes/{node}/pause", Access.ADMINISTRATOR, pause),
        ApiRoute("POST", "/nodes/{node}/resume", Access.ADMINISTRATOR, resume),
        ApiRoute("DELETE", "/nodes/{node}", Access.ADMINISTRATOR, remove),
    ]


async def list_nodes(request: ApiRequest) -> JsonValue:
    """Return all nodes, by name."""
    machines = await read_machines(request.store)
    return {"nodes": [machine.shown(request.now) for machine in machines.all]}


async def show_node(request: ApiRequest) -> JsonValue:
    """Return one node, by its name or id."""
    machines = await read_machines(request.store)
    return machines.find(request.path["node"]).shown(request.now)


async def promote(request: ApiRequest) -> JsonValue:
    """Want a node to be a manager; the voters' loop makes it one."""
    return await _change(request, role=Role.MANAGER)


async def demote(request: ApiRequest) -> JsonValue:
    """Want a node to be a worker, unless no manager would be left."""
    return await _change(request, role=Role.WORKER)


async def pause(request: ApiRequest) -> JsonValue:
    """Want nothing new to be put on a node."""
    return await _change(request, is_paused=True)


async def resume(request: ApiRequest) -> JsonValue:
    """End a pause."""
    return await _change(request, is_paused=False)


async def remove(request: ApiRequest) -> JsonValue:
    """Remove a node and revoke its certificate at once.

    The voters' loop then takes its member out of etcd.
    """
    is_forced = request.query.get("force", "").lower() in {"1", "true", "yes"}
    for _ in range(_ATTEMPTS):
        machines = await read_machines(request.store)
        machine = machines.find(request.path["node"])
        _check_removal(machines, machine, is_forced=is_forced)
        node_id = machine.node.id
        changes: Sequence[Change] = [
            Delete(keys.node(node_id)),
            Delete(keys.report(node_id)),
            Delete(keys.probe(node_id)),
            Delete(f"{keys.SERVICES}{node_id}/", is_prefix=True),
        ]
        if await request.store.commit(changes, [_unchanged(machine)]):
            return {"id": node_id, "name": machine.node.name}
    raise _busy()


def _check_removal(machines: Machines, machine: Machine, *, is_forced: bool) -> None:
    name = machine.node.name
    if machine.manager is not None and not machines.has_other_manager(machine):
        raise ApiError(
            409,
            "LAST_MANAGER",
            f"{name} is the last manager, and without it there is no control plane. Promote "
            "another node first, or end it all with 'ucp uninstall' on every machine.",
        )
    if machine.services and not is_forced:
        what = " and ".join(sorted(machine.services))
        raise ApiError(
            409,
            "NODE_IN_USE",
            f"{name} hosts a {what}. Remove that first ('dtr remove', 'dtr load-balancer remove'), "
            "or pass --force if the machine is gone for good.",
        )


async def _change(request: ApiRequest, **values: object) -> JsonValue:
    for _ in range(_ATTEMPTS):
        machines = await read_machines(request.store)
        machine = machines.find(request.path["node"])
        if values.get("role") is Role.WORKER and machine.manager is not None:
            _check_demotion(machines, machine)
        changed = machine.node.changed(**values)
        put = Put(machine.entry.key, changed.encoded())
        if await request.store.commit([put], [_unchanged(machine)]):
            found = await read_machines(request.store)
            return found.find(machine.node.id).shown(request.now)
    raise _busy()


def _check_demotion(machines: Machines, machine: Machine) -> None:
    if not machines.has_other_manager(machine):
        raise ApiError(
            409,
            "LAST_MANAGER",
            f"{machine.node.name} is the last manager. Promote another node first.",
        )


def _unchanged(machine: Machine) -> IsUnchanged:
    return IsUnchanged(machine.entry.key, machine.entry.modified)


def _busy() -> ApiError:
    return ApiError(503, "BUSY", "Another request is changing the node. Try again.")
