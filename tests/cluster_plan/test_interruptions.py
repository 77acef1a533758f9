"""Operations that are interrupted at every point, raced, and whose machines die at any time.

The simulation holds the invariants after every commit and every second; here is looked at the end:
every operation ends, and what it leaves is whole.
"""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.cluster_plan.promises import check_one_more_may_die
from tests.cluster_plan.simulation import VERSION, Simulation, cluster_of, replica_id

from dtr.cluster.loop import ClusterLoop
from dtr.cluster.model import ReplicaPhase
from dtr.cluster.plan_majority import is_configured
from dtr.ucp import keys
from dtr.ucp.model import OperationState

OPERATIONS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "install": (0, "install", {"node": "node1", "replica_id": replica_id(1)}),
    "join a second": (1, "join", {"node": "node4", "replica_id": replica_id(4)}),
    "join a third": (2, "join", {"node": "node4", "replica_id": replica_id(4)}),
    "join a fourth": (3, "join", {"node": "node4", "replica_id": replica_id(4)}),
    "remove a standby": (3, "remove", {"replica_ids": [replica_id(3)]}),
    "remove the primary": (3, "remove", {"replica_ids": [replica_id(1)]}),
    "remove one of two": (2, "remove", {"replica_ids": [replica_id(1)]}),
    "destroy": (1, "destroy", {"replica_id": replica_id(1)}),
    "reconfigure": (3, "reconfigure", {"settings": {"log": {"format": "json"}}}),
    "balancer": (2, "load-balancer-install", {"node": "node4"}),
}


async def prepared(name: str, seed: int = 0) -> Simulation:
    """Return the cluster that an operation begins with, on four machines."""
    simulation = await cluster_of(OPERATIONS[name][0], machines=4, seed=seed)
    simulation.commits = 0
    return simulation


async def is_whole(simulation: Simulation) -> None:
    """Hold what is so when nothing is under way: no remains, and the right majority."""
    await simulation.tick(30)
    view = await simulation.view()
    assert view.operations == ()
    assert view.lock == ""
    assert view.probes == {}
    ids = {each.id for each in view.replicas}
    assert simulation.users.names == ids
    assert set(view.secrets.etcd_passwords if view.secrets else ()) == ids
    assert {each.id for each in view.counted} == ids
    assert all(each.phase is ReplicaPhase.SERVING for each in view.replicas)
    if ids:
        assert is_configured(view.patroni.config, len(ids))
        assert view.patroni.acknowledgements == len(ids) // 2
    for machine in simulation.machines.values():
        if machine.is_alive:
            expected = view.replica_on(machine.node.id)
            found = machine.database.id if machine.database else None
            assert found == (expected.id if expected else None)


async def _commits_of(name: str) -> int:
    simulation = await prepared(name)
    _, kind, arguments = OPERATIONS[name]
    done = await simulation.run(kind, **arguments)
    assert done.state is OperationState.SUCCEEDED, done.error
    return simulation.commits


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_controller_may_die_after_any_commit(name: str) -> None:
    """Another one goes on, and the operation succeeds as if nothing had been.

    To die before a commit is to die after the one before it, as far as the store can tell.
    """
    _, kind, arguments = OPERATIONS[name]
    for number in range(1, await _commits_of(name) + 1):
        simulation = await prepared(name)
        simulation.dies_at = (number, "after")
        done = await simulation.run(kind, **arguments)
        assert done.state is OperationState.SUCCEEDED, f"{number}: {done.error}"
        await is_whole(simulation)


@pytest.mark.parametrize("name", OPERATIONS)
async def test_two_controllers_at_once_are_harmless(name: str) -> None:
    """Both believe to lead, hold the same proof of it, and act at the same time."""
    simulation = await prepared(name, seed=1)
    _, kind, arguments = OPERATIONS[name]
    operation_id = await simulation.start(kind, **arguments)
    other = ClusterLoop(simulation.users, version=VERSION)
    for _ in range(600):
        if (await simulation.operation(operation_id)).state is not OperationState.RUNNING:
            break
        await simulation.tick()
        await asyncio.gather(
            other.cycle(simulation.fenced, simulation.now),
            simulation.loop.cycle(simulation.fenced, simulation.now),
        )
    done = await simulation.operation(operation_id)
    assert done.state is OperationState.SUCCEEDED, done.error
    await is_whole(simulation)


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_controller_that_has_lost_its_lead_changes_nothing(name: str) -> None:
    """It was frozen, and thaws: its writes are refused by the store."""
    simulation = await prepared(name)
    old_store, old_loop = simulation.fenced, simulation.loop
    _, kind, arguments = OPERATIONS[name]
    operation_id = await simulation.start(kind, **arguments)
    await simulation.elect()
    before = dict(simulation.entries())
    for _ in range(5):
        await old_loop.cycle(old_store, simulation.now)
    assert dict(simulation.entries()) == before
    assert (await simulation.follow(operation_id)).state is OperationState.SUCCEEDED


@pytest.mark.parametrize("name", OPERATIONS)
async def test_silent_controllers_fail_nothing(name: str) -> None:
    """Nobody looked for ten minutes: no deadline passes meanwhile, no node counts as lost."""
    simulation = await prepared(name)
    _, kind, arguments = OPERATIONS[name]
    operation_id = await simulation.start(kind, **arguments)
    await simulation.tick(4)
    simulation.store.is_available = False
    simulation.now += 600
    await simulation.control()
    simulation.store.is_available = True
    for machine in simulation.machines.values():
        if machine.database is not None:
            machine.database.seen_at = simulation.now
    simulation.leader_key_at = simulation.now
    await simulation.control()
    done = await simulation.follow(operation_id)
    assert done.state is OperationState.SUCCEEDED, done.error
    await is_whole(simulation)


async def test_cancelling_a_join_at_any_second_leaves_nothing_or_all() -> None:
    """Either it is as if it had never been asked for, or it counts."""
    for second in range(30):
        simulation = await prepared("join a third", seed=second)
        operation_id = await simulation.start("join", node="node4", replica_id=replica_id(4))
        await simulation.tick(second)
        if (await simulation.operation(operation_id)).state is not OperationState.RUNNING:
            return
        await simulation.cancel(operation_id)
        done = await simulation.follow(operation_id)
        counts = replica_id(4) in {each.id for each in simulation.records()}
        assert counts == (done.state is OperationState.SUCCEEDED)
        await is_whole(simulation)
    raise AssertionError("the join takes longer than it is looked at")


async def test_cancelling_a_remove_at_any_second_leaves_all_or_nothing() -> None:
    """Either the replica counts again, or it is gone."""
    for second in range(60):
        simulation = await prepared("remove the primary", seed=second)
        operation_id = await simulation.start("remove", replica_ids=[replica_id(1)])
        await simulation.tick(second)
        if (await simulation.operation(operation_id)).state is not OperationState.RUNNING:
            return
        await simulation.cancel(operation_id)
        done = await simulation.follow(operation_id)
        is_there = replica_id(1) in {each.id for each in simulation.records()}
        assert is_there == (done.state is OperationState.FAILED)
        await is_whole(simulation)
    raise AssertionError("the removal takes longer than it is looked at")


@pytest.mark.parametrize("victim", [1, 3, 4])
@pytest.mark.parametrize("name", ["join a fourth", "remove a standby", "remove the primary"])
async def test_a_machine_may_die_at_any_second(name: str, victim: int) -> None:
    """The operation ends; once the machine is back, a last command makes all whole."""
    _, kind, arguments = OPERATIONS[name]
    for second in range(0, 30, 4):
        simulation = await prepared(name, seed=second)
        operation_id = await simulation.start(kind, **arguments)
        await simulation.tick(second)
        simulation.kill(victim)
        done = await simulation.follow(operation_id, seconds=3000)
        simulation.revive(victim)
        await simulation.tick(60)
        if done.state is OperationState.FAILED:
            await _remove_what_is_left(simulation)
        await is_whole(simulation)


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("leaving", [1, 3])
@pytest.mark.parametrize("count", [3, 4, 5])
async def test_a_removal_leaves_no_moment_in_which_one_more_death_stops_writes(
    count: int, leaving: int, victim: int
) -> None:
    """Nor one in which fewer than a majority acknowledge; with a replica dead already, or none."""
    for seed in range(2):
        simulation = await cluster_of(count, seed=seed)
        operation_id = await simulation.start("remove", replica_ids=[replica_id(leaving)])
        for second in range(600):
            check_one_more_may_die(simulation)
            if (await simulation.operation(operation_id)).state is not OperationState.RUNNING:
                break
            if victim and second == 3 + 9 * seed:
                simulation.kill(victim)
            await simulation.tick()
        done = await simulation.operation(operation_id)
        assert done.state is OperationState.SUCCEEDED or victim, done.error
        simulation.revive(victim or 1)
        await is_whole(simulation)


async def test_a_replica_counts_until_those_that_stay_are_enough() -> None:
    """Two of the five die after its removal has begun: the three that live are needed."""
    simulation = await cluster_of(5)
    operation_id = await simulation.start("remove", replica_ids=[replica_id(5)])
    await simulation.tick(4)
    for victim in (2, 3):
        simulation.kill(victim)
    done = await simulation.follow(operation_id, seconds=3000)
    assert done.state is OperationState.FAILED
    assert "Of the 4 replicas that stay, 2 acknowledge commits, and 3 must" in done.error
    assert all(each.is_counted for each in simulation.records())
    for victim in (2, 3):
        simulation.revive(victim)
    await is_whole(simulation)


@pytest.mark.parametrize("count", [3, 5])
async def test_the_primary_may_die_at_the_moment_in_which_it_is_asked_to_move(count: int) -> None:
    """Whoever has every commit takes over, whatever reports were known when it was asked."""
    for seed in range(8):
        simulation = await cluster_of(count, seed=seed)
        simulation.loses_reports = 0.5
        operation_id = await simulation.start("remove", replica_ids=[replica_id(1)])
        while f"{keys.PATRONI}failover" not in simulation.entries():
            await simulation.tick()
        simulation.kill(1)
        await simulation.follow(operation_id, seconds=3000)
        simulation.loses_reports = 0.0
        simulation.revive(1)
        await simulation.tick(60)
        await _remove_what_is_left(simulation)
        await is_whole(simulation)


async def _remove_what_is_left(simulation: Simulation) -> None:
    for each in simulation.records():
        if not each.is_counted:
            done = await simulation.run("remove", replica_ids=[each.id])
            assert done.state is OperationState.SUCCEEDED, done.error


STEPS = st.one_of(
    st.tuples(st.just("tick"), st.integers(1, 15)),
    st.tuples(st.just("kill"), st.integers(1, 5)),
    st.tuples(st.just("revive"), st.integers(1, 5)),
    st.tuples(st.just("silence"), st.integers(1, 5)),
    st.tuples(st.just("controller"), st.integers(1, 3)),
    st.tuples(st.just("cancel"), st.just(0)),
    st.tuples(st.just("join"), st.integers(1, 5)),
    st.tuples(st.just("remove"), st.integers(1, 5)),
    st.tuples(st.just("reconfigure"), st.just(0)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    replicas=st.integers(1, 4),
    loses_reports=st.sampled_from([0.0, 0.3]),
    steps=st.lists(STEPS, max_size=25),
)
def test_whatever_happens_no_acknowledged_commit_is_lost(
    seed: int, replicas: int, loses_reports: float, steps: list[tuple[str, int]]
) -> None:
    """Any mix of operations, deaths, lost reports and controllers; in the end all is whole."""
    asyncio.run(_live(seed, replicas, loses_reports, steps))


async def _live(
    seed: int, replicas: int, loses_reports: float, steps: list[tuple[str, int]]
) -> None:
    simulation = await cluster_of(replicas, machines=5, seed=seed)
    simulation.loses_reports = loses_reports
    for name, number in steps:
        await _step(simulation, name, number)
    simulation.loses_reports = 0.0
    for number in range(1, 6):
        simulation.revive(number)
        simulation.machine(number).is_reporting = True
    for operation in (await simulation.view()).operations:
        await simulation.follow(operation.id, seconds=4000)
    await simulation.tick(60)
    await _remove_what_is_left(simulation)
    await is_whole(simulation)


async def _step(simulation: Simulation, name: str, number: int) -> None:
    running = (await simulation.view()).operations
    dead = [each for each in simulation.machines.values() if not each.is_alive]
    counted = [each for each in simulation.records() if each.is_counted]
    if name == "tick":
        await simulation.tick(number)
    elif name == "kill" and len(dead) < (len(counted) - 1) // 2:
        simulation.kill(number)
    elif name == "revive":
        simulation.revive(number)
        simulation.machine(number).is_reporting = True
    elif name == "silence":
        simulation.machine(number).is_reporting = False
    elif name == "controller":
        simulation.dies_at = (simulation.commits + number, "after" if number % 2 else "before")
    elif name == "cancel" and running:
        await simulation.cancel(running[0].id)
    elif name == "join" and not running:
        await simulation.start("join", node=f"node{number}")
    elif name == "remove" and not running and counted:
        chosen = counted[number % len(counted)]
        await simulation.start("remove", replica_ids=[chosen.id])
    elif name == "reconfigure" and not running:
        await simulation.start("reconfigure", settings={"log": {"format": "json"}})
