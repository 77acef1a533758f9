"""Operations on a simulated cluster, undisturbed and refused."""

from typing import Any

import pytest
from tests.cluster_plan.simulation import Simulation, cluster_of, replica_id

from dtr.cluster.model import ReplicaPhase
from dtr.ucp.api import ApiError
from dtr.ucp.model import Operation, OperationState


async def refused(simulation: Simulation, kind: str, **arguments: Any) -> str:
    """Run an operation that must fail in its checks, and return its error."""
    before = simulation.records()
    done = await simulation.run(kind, **arguments)
    assert done.state is OperationState.FAILED
    assert simulation.records() == before
    assert not [key for key in simulation.entries() if key.startswith("/ucp/probes/")]
    assert "/ucp/operation" not in simulation.entries()
    return done.error


async def succeeded(simulation: Simulation, kind: str, **arguments: Any) -> Operation:
    """Run an operation that must succeed."""
    done = await simulation.run(kind, **arguments)
    assert done.state is OperationState.SUCCEEDED, done.error
    assert "/ucp/operation" not in simulation.entries()
    return done


async def test_install_ends_with_the_replica_id() -> None:
    """It names what --existing-replica-id takes later."""
    simulation = await Simulation(1).begin()
    await simulation.tick(2)
    done = await succeeded(simulation, "install", node="node1")
    (replica,) = simulation.records()
    assert done.result["replica_id"] == replica.id
    assert done.result["replicas"] == 1
    assert done.result["failures_tolerated"] == 0
    assert replica.is_counted
    assert simulation.users.names == {replica.id}


async def test_joins_raise_the_acknowledgements_to_a_majority() -> None:
    """Five replicas: two standbys beside the primary, and no fewer when one is missing."""
    simulation = await cluster_of(5)
    view = await simulation.view()
    assert len(view.counted) == 5
    assert view.patroni.acknowledgements == 2
    assert view.patroni.config is not None
    assert view.patroni.config["synchronous_mode_strict"] is True
    assert view.patroni.config["primary_start_timeout"] == 0


async def test_an_even_number_is_warned_of() -> None:
    """Two replicas tolerate no failure; the command says so."""
    simulation = await cluster_of(1, machines=2)
    done = await succeeded(simulation, "join", node="node2")
    assert done.result["failures_tolerated"] == 0
    assert "3, 5 or 7" in str(done.result["warnings"])


async def test_two_replicas_are_not_strict() -> None:
    """The death of one of two must not stop the other."""
    simulation = await cluster_of(2)
    config = (await simulation.view()).patroni.config
    assert config is not None
    assert config["synchronous_mode_strict"] is False
    assert config["primary_start_timeout"] == 300


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_any_replica_can_be_removed(number: int) -> None:
    """The primary, too: another one takes over first; nothing of it is left."""
    simulation = await cluster_of(3)
    done = await succeeded(simulation, "remove", replica_ids=[replica_id(number)])
    assert done.result["removed"] == [replica_id(number)]
    assert len(simulation.records()) == 2
    assert replica_id(number) not in simulation.users.names
    await simulation.tick(3)
    assert simulation.machine(number).database is None
    view = await simulation.view()
    assert (f"node-id-{number}", "replica") not in view.services
    assert view.secrets is not None
    assert replica_id(number) not in view.secrets.etcd_passwords
    assert view.patroni.leader in {each.id for each in view.replicas}


async def test_several_replicas_are_removed_one_after_the_other() -> None:
    """Five become three, with three members' acknowledgements at the end."""
    simulation = await cluster_of(5)
    done = await succeeded(simulation, "remove", replica_ids=[replica_id(1), replica_id(4)])
    assert done.result["replicas"] == 3
    assert (await simulation.view()).patroni.acknowledgements == 1


async def test_a_dead_replica_is_removed_through_a_healthy_one() -> None:
    """Its machine is told to delete when it returns, and does."""
    simulation = await cluster_of(3)
    simulation.kill(3)
    await simulation.tick(40)
    done = await succeeded(
        simulation,
        "remove",
        replica_ids=[replica_id(3)],
        existing_replica_id=replica_id(1),
    )
    assert "did not report" in str(done.result["warnings"])
    assert replica_id(3) not in simulation.users.names
    simulation.revive(3)
    await simulation.tick(5)
    assert simulation.machine(3).database is None
    assert ("node-id-3", "replica") not in (await simulation.view()).services
    await succeeded(simulation, "join", node="node3")


async def test_the_machine_of_a_dead_primary_is_removed() -> None:
    """After the failover."""
    simulation = await cluster_of(3)
    simulation.kill(1)
    done = await succeeded(simulation, "remove", replica_ids=[replica_id(1)])
    assert done.result["replicas"] == 2
    assert simulation.leader in {replica_id(2), replica_id(3)}


async def test_two_become_one() -> None:
    """Allowed, and the one that is left waits for nobody."""
    simulation = await cluster_of(2)
    await succeeded(simulation, "remove", replica_ids=[replica_id(1)])
    view = await simulation.view()
    assert view.patroni.leader == replica_id(2)
    assert view.patroni.acknowledgements == 0


async def test_the_last_replica_is_not_removed() -> None:
    """The error names destroy."""
    simulation = await cluster_of(1)
    error = await refused(simulation, "remove", replica_ids=[replica_id(1)])
    assert "dtr destroy" in error


async def test_destroy_refuses_where_others_would_be_left_with_a_ghost() -> None:
    """That is what the original's users did by mistake."""
    simulation = await cluster_of(2)
    error = await refused(simulation, "destroy", replica_id=replica_id(2))
    assert "dtr remove" in error


async def test_destroy_leaves_nothing() -> None:
    """And a new install begins from nothing."""
    simulation = await cluster_of(1)
    await succeeded(simulation, "destroy", replica_id=replica_id(1))
    await simulation.tick(2)
    left = [
        key
        for key in simulation.entries()
        if key.startswith(("/ucp/dtr/", "/ucp/secrets/", "/db/"))
    ]
    assert left == []
    assert simulation.users.names == set()
    assert simulation.machine(1).database is None
    await succeeded(simulation, "install", node="node1", replica_id=replica_id(1))


async def test_install_is_refused_where_there_is_a_cluster() -> None:
    """A second one would be another registry."""
    simulation = await cluster_of(1, machines=2)
    assert "dtr join" in await refused(simulation, "install", node="node2")


async def test_join_refuses_an_unhealthy_cluster() -> None:
    """It names who is sick and why, and the two ways out."""
    simulation = await cluster_of(2, machines=3)
    simulation.kill(2)
    await simulation.tick(15)
    error = await refused(simulation, "join", node="node3")
    assert replica_id(2) in error
    assert "--unsafe-join" in error
    await succeeded(simulation, "join", node="node3", unsafe_join=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"is_alive": False}, "does not report"),
        ({"busy_ports": frozenset({443})}, "Port 443"),
        ({"unreachable": frozenset({"10.0.0.1:5432"})}, "cannot reach 10.0.0.1:5432"),
    ],
)
async def test_join_refuses_a_node_that_would_not_work(
    change: dict[str, object], words: str
) -> None:
    """Nothing is touched before."""
    simulation = await cluster_of(1, machines=2)
    for name, value in change.items():
        setattr(simulation.machine(2), name, value)
    await simulation.tick(12)
    assert words in await refused(simulation, "join", node="node2")
    assert simulation.users.names == {replica_id(1)}


async def test_join_sees_that_others_cannot_reach_the_new_node() -> None:
    """A firewall of one direction is found, too."""
    simulation = await cluster_of(1, machines=2)
    simulation.machine(1).unreachable = frozenset({"10.0.0.2:8008"})
    error = await refused(simulation, "join", node="node2")
    assert "node1 cannot reach 10.0.0.2:8008" in error
    await succeeded(simulation, "join", node="node2", skip_network_test=True)


async def test_join_refuses_a_directory_of_one_machine() -> None:
    """The sentence that the original's users lacked."""
    simulation = await Simulation(2).begin()
    await simulation.tick(2)
    await succeeded(simulation, "install", node="node1", storage="file:///srv/blobs")
    error = await refused(simulation, "join", node="node2")
    assert "a directory of one machine" in error
    assert "dtr storage copy" in error


async def test_a_shared_directory_may_be_joined() -> None:
    """Where somebody has said that it is the same everywhere."""
    simulation = await Simulation(2).begin()
    await simulation.tick(2)
    await succeeded(
        simulation, "install", node="node1", storage="file:///mnt/nfs", is_storage_shared=True
    )
    await succeeded(simulation, "join", node="node2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"node": "nowhere"}, "no node 'nowhere'"),
        ({"node": "node1"}, "has the replica"),
        ({"node": "node2", "replica_id": replica_id(1)}, "belongs to a replica"),
        ({"node": "node2", "https_port": 5432}, "Port 5432"),
        ({"node": "node2", "existing_replica_id": "abcdefabcdef"}, "no existing replica"),
    ],
)
async def test_join_refuses_what_it_cannot_do(arguments: dict[str, Any], words: str) -> None:
    """Each with what is wrong."""
    simulation = await cluster_of(1, machines=2)
    assert words in await refused(simulation, "join", **arguments)


async def test_an_id_is_never_used_again() -> None:
    """A machine that was away may still have the data of the one before."""
    simulation = await cluster_of(2, machines=3)
    await succeeded(simulation, "remove", replica_ids=[replica_id(2)])
    error = await refused(simulation, "join", node="node3", replica_id=replica_id(2))
    assert "or did" in error


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("join", {"node": "n", "replica_id": "XYZ"}, "12 lower-case hexadecimal"),
        ("join", {"node": "n", "colour": "red"}, "colour"),
        ("join", {"node": "n", "https_port": 80}, "must differ"),
        ("install", {"node": "n", "storage": "ftp://x"}, "or begin with"),
        ("install", {"node": "n", "settings": {"database": {"url": "x"}}}, "UCP runs the database"),
        ("install", {"node": "n", "settings": {"log": {"level": "loud"}}}, "log.level"),
        ("reconfigure", {"settings": {"storage": {"url": "s3://b"}}}, "storage.url"),
        ("remove", {"replica_ids": []}, "replica_ids"),
        ("remove", {"replica_ids": ["a" * 12, "a" * 12]}, "once"),
        ("remove", {"replica_ids": ["a" * 12], "existing_replica_id": "a" * 12}, "destroy"),
    ],
)
async def test_arguments_are_refused_before_an_operation_begins(
    kind: str, arguments: dict[str, Any], words: str
) -> None:
    """They need no look at the cluster."""
    simulation = await Simulation(1).begin()
    with pytest.raises(ApiError, match=words):
        await simulation.start(kind, **arguments)


async def test_a_join_whose_node_dies_is_cleaned_up() -> None:
    """Nothing of it counts, nobody waits for it, and the node can be used again."""
    simulation = await cluster_of(2, machines=3)
    operation_id = await simulation.start("join", node="node3", replica_id=replica_id(3))
    while simulation.machine(3).database is None:
        await simulation.tick()
    simulation.kill(3)
    done = await simulation.follow(operation_id)
    assert done.state is OperationState.FAILED
    assert "no longer reports" in done.error
    assert {each.id for each in simulation.records()} == {replica_id(1), replica_id(2)}
    assert simulation.users.names == {replica_id(1), replica_id(2)}
    simulation.revive(3)
    await simulation.tick(5)
    assert simulation.machine(3).database is None
    await succeeded(simulation, "join", node="node3")


async def test_a_failed_install_leaves_nothing() -> None:
    """So that it can be tried again."""
    simulation = await Simulation(1).begin()
    await simulation.tick(2)
    simulation.users.fails = True
    operation_id = await simulation.start("install", node="node1", replica_id=replica_id(1))
    await simulation.tick(10)
    await simulation.cancel(operation_id)
    simulation.users.fails = False
    done = await simulation.follow(operation_id)
    assert done.state is OperationState.FAILED
    assert "cancelled" in done.error
    await simulation.tick(2)
    assert not [key for key in simulation.entries() if key.startswith(("/ucp/dtr/", "/db/"))]
    assert simulation.users.names == set()
    await succeeded(simulation, "install", node="node1", replica_id=replica_id(1))


async def test_a_cancelled_remove_puts_the_replica_back() -> None:
    """As long as its data is there."""
    simulation = await cluster_of(3)
    operation_id = await simulation.start("remove", replica_ids=[replica_id(3)])
    await simulation.tick(5)
    (draining,) = [each for each in simulation.records() if each.phase is ReplicaPhase.DRAINING]
    assert draining.id == replica_id(3)
    await simulation.cancel(operation_id)
    done = await simulation.follow(operation_id)
    assert done.state is OperationState.FAILED
    assert all(each.is_counted for each in simulation.records())
    assert all(each.phase is ReplicaPhase.SERVING for each in simulation.records())


async def test_no_data_is_deleted_that_a_slow_standby_lacks() -> None:
    """Two have acknowledged; one of them leaves once the third has all of it."""
    simulation = await cluster_of(3)
    simulation.slow = frozenset({replica_id(2)})
    await simulation.tick(5)
    operation_id = await simulation.start("remove", replica_ids=[replica_id(3)])
    await simulation.tick(120)
    running = await simulation.operation(operation_id)
    assert running.phases[-1].message == f"for {replica_id(2)} to have every commit"
    assert simulation.machine(3).database is not None
    simulation.slow = frozenset()
    assert (await simulation.follow(operation_id)).state is OperationState.SUCCEEDED


async def test_a_standby_that_stays_slow_keeps_the_replica() -> None:
    """The removal gives up and puts it back, rather than to wait for ever."""
    simulation = await cluster_of(3)
    simulation.slow = frozenset({replica_id(2)})
    await simulation.tick(5)
    done = await simulation.run("remove", replica_ids=[replica_id(3)])
    assert done.state is OperationState.FAILED
    assert all(each.is_counted for each in simulation.records())


async def test_a_replica_that_goes_on_to_acknowledge_is_kept() -> None:
    """Its data may be all that there is of a commit besides the primary's."""
    simulation = await cluster_of(3)
    simulation.slow = frozenset({replica_id(2)})
    simulation.machine(3).ignores_tags = True
    done = await simulation.run("remove", replica_ids=[replica_id(3)])
    assert done.state is OperationState.FAILED
    assert "rely on" in done.error
    assert all(each.is_counted for each in simulation.records())


async def test_a_remove_that_deletes_already_is_not_cancelled() -> None:
    """It goes on to its end."""
    simulation = await cluster_of(3)
    operation_id = await simulation.start("remove", replica_ids=[replica_id(3)])
    while not any(each.phase is ReplicaPhase.LEAVING for each in simulation.records()):
        await simulation.tick()
    await simulation.cancel(operation_id)
    done = await simulation.follow(operation_id)
    assert done.state is OperationState.SUCCEEDED
    assert "too late" in str(done.result["warnings"])


async def test_blobs_are_copied_before_their_holder_leaves() -> None:
    """It waits for as long as copies are made, and a forced removal does not."""
    simulation = await cluster_of(3)
    simulation.under_copied = 7
    operation_id = await simulation.start("remove", replica_ids=[replica_id(3)])
    await simulation.tick(1000)
    running = await simulation.operation(operation_id)
    assert running.phases[-1].message == "for copies of 7 blobs"
    simulation.under_copied = 0
    assert (await simulation.follow(operation_id)).state is OperationState.SUCCEEDED
    simulation.under_copied = 7
    await succeeded(simulation, "remove", replica_ids=[replica_id(2)], force=True)


async def test_replicas_that_do_not_tell_of_copies_end_the_removal() -> None:
    """The replica is put back; --force is named."""
    simulation = await cluster_of(3)
    simulation.under_copied = None
    done = await simulation.run("remove", replica_ids=[replica_id(3)])
    assert done.state is OperationState.FAILED
    assert "--force" in done.error
    assert all(each.phase is ReplicaPhase.SERVING for each in simulation.records())


async def test_settings_are_taken_one_after_the_other() -> None:
    """Never are two registries away at once."""
    simulation = await cluster_of(3)
    operation_id = await simulation.start("reconfigure", settings={"log": {"format": "json"}})
    restarting = 0
    while (await simulation.operation(operation_id)).state is OperationState.RUNNING:
        await simulation.tick()
        away = [each for each in simulation.machines.values() if each.serving_ticks <= 2]
        restarting = max(restarting, len(away))
    assert restarting == 1
    assert [each.settings_revision for each in simulation.machines.values()] == [2, 2, 2]


async def test_settings_that_a_replica_cannot_take_are_taken_back() -> None:
    """The second replica never gets them."""
    simulation = await cluster_of(3)
    simulation.machine(2).refuses_settings = True
    done = await simulation.run("reconfigure", settings={"log": {"format": "json"}}, seconds=3000)
    assert done.state is OperationState.FAILED
    assert "is not healthy with the new settings" in done.error
    view = await simulation.view()
    assert view.cluster is not None
    assert view.cluster.settings == {}
    assert {each.settings_revision for each in simulation.machines.values()} == {3}


async def test_a_balancer_follows_joins_and_removals() -> None:
    """Its pool has what serves and counts, drains what leaves, and nobody has to tell it."""
    simulation = await cluster_of(1, machines=3)
    await succeeded(simulation, "load-balancer-install", node="node3")
    await succeeded(simulation, "join", node="node2", replica_id=replica_id(2))
    await simulation.tick(2)
    balancer = simulation.machine(3).balancer
    assert balancer is not None
    assert [each.id for each in balancer.pool] == [replica_id(1), replica_id(2)]
    await succeeded(simulation, "remove", replica_ids=[replica_id(1)])
    await simulation.tick(2)
    balancer = simulation.machine(3).balancer
    assert balancer is not None
    assert [each.id for each in balancer.pool] == [replica_id(2)]
    await succeeded(simulation, "load-balancer-remove", node="node3")
    await simulation.tick(3)
    assert simulation.machine(3).balancer is None


async def test_a_balancer_needs_ports_that_are_free() -> None:
    """The replica of the same node has the usual ones."""
    simulation = await cluster_of(1)
    error = await refused(simulation, "load-balancer-install", node="node1")
    assert "--https-port" in error


async def test_emergency_repair_is_refused_while_a_majority_is_there() -> None:
    """A single loss is a remove."""
    simulation = await cluster_of(3)
    simulation.kill(3)
    await simulation.tick(40)
    error = await refused(simulation, "emergency-repair", existing_replica_id=replica_id(1))
    assert "dtr remove" in error


async def test_emergency_repair_goes_on_from_the_chosen_survivor() -> None:
    """Two of three are lost; the third becomes a cluster of one that others can join."""
    simulation = await cluster_of(3)
    simulation.kill(1)
    simulation.kill(2)
    await simulation.tick(60)
    assert simulation.leader == ""
    simulation.gives_up_durability = True
    done = await succeeded(simulation, "emergency-repair", existing_replica_id=replica_id(3))
    assert sorted(str(each) for each in done.result["removed"]) == [replica_id(1), replica_id(2)]  # type: ignore[union-attr]
    assert simulation.leader == replica_id(3)
    simulation.gives_up_durability = False
    assert (await simulation.view()).patroni.acknowledgements == 0
    assert simulation.users.names == {replica_id(3)}
    simulation.revive(1)
    simulation.revive(2)
    await simulation.tick(5)
    await succeeded(simulation, "join", node="node1")
    await succeeded(simulation, "join", node="node2")
    assert len((await simulation.view()).counted) == 3


async def test_emergency_repair_waits_until_the_lost_are_known_to_be_lost() -> None:
    """Asked for at once, it does not say that all is well."""
    simulation = await cluster_of(3)
    simulation.gives_up_durability = True
    simulation.kill(1)
    simulation.kill(2)
    done = await succeeded(simulation, "emergency-repair", existing_replica_id=replica_id(3))
    assert done.result["replicas"] == 1


async def test_emergency_repair_takes_over_from_an_operation_that_cannot_go_on() -> None:
    """The lock does not stand in its way."""
    simulation = await cluster_of(3)
    simulation.kill(1)
    simulation.kill(2)
    await simulation.tick(60)
    stuck = await simulation.start("remove", replica_ids=[replica_id(1)], force=True)
    await simulation.tick(3)
    simulation.gives_up_durability = True
    await succeeded(simulation, "emergency-repair", existing_replica_id=replica_id(3))
    assert "emergency repair" in (await simulation.operation(stuck)).error


async def test_what_somebody_changed_in_patroni_is_put_right() -> None:
    """The majority arithmetic is not a matter of one command."""
    simulation = await cluster_of(3)
    await simulation._put(
        "config",
        {"ttl": 20, "synchronous_node_count": 1, "synchronous_mode_strict": True, "loop_wait": 5},
    )
    await simulation.tick()
    config = (await simulation.view()).patroni.config
    assert config is not None
    assert config["synchronous_mode"] == "quorum"
    assert config["loop_wait"] == 5
