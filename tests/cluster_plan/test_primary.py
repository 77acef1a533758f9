"""Where the primary is: it leaves a machine whose disk is full, for one that has room."""

from tests.cluster_plan.simulation import Simulation, cluster_of, replica_id

from dtr.cluster.plan_primary import CROWDED_BYTES

_FULL = CROWDED_BYTES - 1


async def test_the_primary_leaves_a_full_disk_and_stays_where_it_went() -> None:
    """No operation is needed, and it does not come back when there is room again."""
    simulation = await cluster_of(3)
    simulation.machine(1).disk_free_bytes = _FULL
    await simulation.tick(10)
    there = simulation.leader
    assert there in {replica_id(2), replica_id(3)}
    simulation.machine(1).disk_free_bytes = 2**40
    assert await leaders_of(simulation, 20) == {there}


async def test_the_primary_stays_when_no_other_disk_has_room() -> None:
    """Where all are nearly full, moving would only be an interruption, again and again."""
    simulation = await cluster_of(3)
    for number in (1, 2, 3):
        simulation.machine(number).disk_free_bytes = _FULL + number
    simulation.machine(3).disk_free_bytes = CROWDED_BYTES * 2
    assert await leaders_of(simulation, 20) == {replica_id(1)}


async def test_the_primary_moves_to_no_machine_that_does_not_report() -> None:
    """What its disk was like says nothing of what it is."""
    simulation = await cluster_of(3)
    for number in (2, 3):
        simulation.machine(number).is_reporting = False
    await simulation.tick(30)
    simulation.machine(1).disk_free_bytes = _FULL
    assert await leaders_of(simulation, 20) == {replica_id(1)}


async def leaders_of(simulation: Simulation, seconds: int) -> set[str]:
    """Let time pass; return who was the primary."""
    leaders = set()
    for _ in range(seconds):
        await simulation.tick()
        leaders.add(simulation.leader)
    return leaders
