"""What operators and programs are told of the cluster."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.cluster_plan.simulation import Simulation, cluster_of, replica_id

from dtr.cluster.api import bring_certificate, kinds, plan, replicas, routes, status
from dtr.cluster.status import cluster_status
from dtr.server.certificates import ensure_certificates
from dtr.ucp import keys
from dtr.ucp.api import Access, ApiError, ApiRequest
from dtr.ucp.model import Manager, ManagerPhase, OperationState
from dtr.ucp.store import Put


async def shown(simulation: Simulation) -> dict[str, Any]:
    """Return the status as it is now."""
    return cluster_status(await simulation.view(), simulation.now)


def types(document: dict[str, Any]) -> set[str]:
    """Return which kinds of issues there are."""
    return {each["type"] for each in document["rethink_system_tables"]["current_issues"]}


def request(simulation: Simulation, **query: str) -> ApiRequest:
    """Return an administrator's request."""
    return ApiRequest(
        store=simulation.store,
        caller="admin",
        query=query,
        now=simulation.now,
    )


async def test_a_healthy_cluster_has_no_issues_and_the_shape_of_the_original() -> None:
    """What scripts looked for is where it was."""
    document = await shown(await cluster_of(3))
    assert document["rethink_system_tables"]["current_issues"] == []
    assert set(document["replica_health"].values()) == {"OK"}
    assert set(document["replica_timestamp"]) == {replica_id(number) for number in (1, 2, 3)}
    assert set(document["replica_readonly"].values()) == {False}
    assert document["gc_lock_holder"] == ""
    server = document["rethink_system_tables"]["server_status"][0]
    assert server["network"]["canonical_addresses"] == [{"host": "10.0.0.1", "port": 443}]
    assert server["network"]["connected_to"] == {replica_id(2): True, replica_id(3): True}
    json.dumps(document)


async def test_the_role_and_lag_of_each_replica_are_told() -> None:
    """One primary; the others say by how much they are behind."""
    simulation = await cluster_of(3)
    simulation.slow = frozenset({replica_id(2)})
    await simulation.tick(10)
    rows = {each["id"]: each for each in (await shown(simulation))["replicas"]}
    assert rows[replica_id(1)]["role"] == "primary"
    assert rows[replica_id(2)]["role"] == "standby"
    assert rows[replica_id(1)]["lag_bytes"] == 0
    assert rows[replica_id(2)]["lag_bytes"] > 0
    assert rows[replica_id(2)]["is_synchronous"]


async def test_a_dead_replica_is_an_issue_with_what_to_do() -> None:
    """And the number of failures that may still come falls."""
    simulation = await cluster_of(3)
    assert (await shown(simulation))["failures_tolerated"]["replicas"] == 1
    simulation.kill(3)
    await simulation.tick(12)
    document = await shown(simulation)
    (issue,) = document["rethink_system_tables"]["current_issues"]
    assert replica_id(3) in issue["description"]
    assert f"dtr remove --replica-ids {replica_id(3)}" in issue["description"]
    assert document["failures_tolerated"]["replicas"] == 0
    assert document["is_writable"] is True
    assert document["replica_health"][replica_id(3)] != "OK"


async def test_a_lost_majority_is_critical_and_read_only() -> None:
    """The sentence names emergency-repair; critical issues come first."""
    simulation = await cluster_of(3)
    simulation.kill(1)
    simulation.kill(2)
    await simulation.tick(60)
    document = await shown(simulation)
    first = document["rethink_system_tables"]["current_issues"][0]
    assert first["critical"]
    assert {"majority", "primary"} <= types(document)
    assert any(
        "emergency-repair" in each["description"]
        for each in document["rethink_system_tables"]["current_issues"]
    )
    assert document["is_writable"] is False
    assert set(document["replica_readonly"].values()) == {True}


async def test_an_even_number_is_an_issue() -> None:
    """It costs a machine and tolerates no more."""
    assert types(await shown(await cluster_of(2))) == {"even"}


async def test_a_replica_whose_node_was_removed_is_a_ghost() -> None:
    """It is named, with the command that clears it, and that command works."""
    simulation = await cluster_of(3)
    simulation.kill(3)
    await simulation.tick(40)
    node = simulation.machine(3).node.id
    await simulation.store.commit([Put(keys.node(node), b"not a node any more")])
    assert "ghost" in types(await shown(simulation))
    done = await simulation.run("remove", replica_ids=[replica_id(3)])
    assert done.state is OperationState.SUCCEEDED, done.error


async def test_managers_that_may_still_fail_are_counted() -> None:
    """Of three voters one."""
    simulation = await cluster_of(3)
    for number in (1, 2, 3):
        node = simulation.machine(number).node
        manager = Manager(node_id=node.id, peer_url="https://x", phase=ManagerPhase.VOTER)
        await simulation.store.commit([Put(keys.manager(node.id), manager.encoded())])
    assert (await shown(simulation))["failures_tolerated"]["managers"] == 1
    simulation.kill(2)
    await simulation.tick(12)
    assert (await shown(simulation))["failures_tolerated"]["managers"] == 0


async def test_no_secret_is_shown() -> None:
    """Nodes and administrators may read all of it."""
    simulation = await cluster_of(2)
    view = await simulation.view()
    assert view.secrets is not None
    text = json.dumps(await shown(simulation))
    for name, value in view.secrets.model_dump().items():
        for secret in value.values() if isinstance(value, dict) else [value]:
            assert not secret or secret not in text, name


async def test_the_running_operation_is_shown() -> None:
    """With its phase and what it waits for."""
    simulation = await cluster_of(1, machines=2)
    await simulation.start("join", node="node2")
    await simulation.tick(4)
    operation = (await shown(simulation))["operation"]
    assert operation["kind"] == "join"
    assert operation["phase"]


async def test_a_plan_tells_phases_and_changes_nothing() -> None:
    """What --dry-run prints."""
    simulation = await cluster_of(1, machines=2)
    before = dict(simulation.entries())
    told = await plan(request(simulation, kind="join", arguments='{"node": "node2"}'))
    assert isinstance(told, dict)
    assert told["problem"] == ""
    phases = told["phases"]
    assert isinstance(phases, list)
    assert phases[0] == "checking the cluster"
    assert "copying the database" in phases
    told = await plan(request(simulation, kind="join", arguments='{"node": "node1"}'))
    assert isinstance(told, dict)
    assert "has the replica" in str(told["problem"])
    assert dict(simulation.entries()) == before


@pytest.mark.parametrize(
    "query", [{"kind": "explode"}, {"kind": "join", "arguments": "["}, {"kind": "join"}]
)
async def test_a_plan_of_nonsense_is_refused(query: dict[str, str]) -> None:
    """With 400, not with a traceback."""
    simulation = await Simulation(1).begin()
    with pytest.raises(ApiError) as caught:
        await plan(request(simulation, **query))
    assert caught.value.status == 400


async def test_the_routes_answer() -> None:
    """Before an install, too."""
    simulation = await Simulation(1).begin()
    document = await status(request(simulation))
    assert isinstance(document, dict)
    assert document["is_installed"] is False
    simulation = await cluster_of(2)
    listed = await replicas(request(simulation))
    assert isinstance(listed, dict)
    assert isinstance(listed["replicas"], list)
    assert len(listed["replicas"]) == 2
    assert {route.path for route in routes() if route.access is not Access.ADMINISTRATOR} == {
        "/dtr/status"
    }
    assert {kind.name for kind in kinds()} >= {"install", "join", "remove", "destroy"}


async def test_a_web_certificate_is_brought_apart_from_the_operation(tmp_path: Path) -> None:
    """Its key is in no operation's arguments; a wrong pair is refused at once."""
    simulation = await cluster_of(2)
    made = ensure_certificates(tmp_path / "a", ["r.example"], datetime.now(UTC))
    other = ensure_certificates(tmp_path / "b", ["r.example"], datetime.now(UTC))
    certificate, key = made.cert_path.read_text(), made.key_path.read_text()
    simulation.now = datetime.now(UTC).timestamp()
    wrong = ApiRequest(
        store=simulation.store,
        caller="admin",
        body={"certificate": certificate, "key": other.key_path.read_text()},
        now=simulation.now,
    )
    with pytest.raises(ApiError, match="does not belong to"):
        await bring_certificate(wrong)
    brought = await bring_certificate(
        ApiRequest(
            store=simulation.store,
            caller="admin",
            body={"certificate": certificate, "key": key},
            now=simulation.now,
        )
    )
    assert isinstance(brought, dict)
    done = await simulation.run("reconfigure", certificate_id=brought["id"])
    assert done.state is OperationState.SUCCEEDED, done.error
    view = await simulation.view()
    assert view.cluster is not None
    assert view.secrets is not None
    assert view.cluster.web_certificate == certificate
    assert view.secrets.web_key == key
    assert view.certificates == {}
    assert key not in done.model_dump_json()
