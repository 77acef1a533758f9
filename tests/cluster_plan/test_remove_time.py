"""How long the removal of a healthy standby waits, and what for."""

from tests.cluster_plan.simulation import REMOVE, cluster_of, replica_id

from dtr.cluster.model import ReplicaPhase
from dtr.cluster.plan_remove import DRAIN_SECONDS
from dtr.ucp.model import OperationState


async def test_balancers_have_their_time_to_notice_while_the_rest_goes_on() -> None:
    """The replica says that it drains for ten seconds before it ends; nothing else waits for that.

    Blobs are copied and the primary moves meanwhile: the whole takes hardly longer.
    """
    simulation = await cluster_of(3)
    operation_id = await simulation.start(
        REMOVE, replica_ids=[replica_id(3)], existing_replica_id=replica_id(1)
    )
    began = simulation.now
    seen: dict[ReplicaPhase, float] = {}
    while (await simulation.operation(operation_id)).state is OperationState.RUNNING:
        await simulation.tick()
        specification = simulation.machine(3).specification
        if specification is not None:
            seen.setdefault(specification.phase, simulation.now)
        assert simulation.now - began < 120
    assert seen[ReplicaPhase.LEAVING] - seen[ReplicaPhase.DRAINING] >= DRAIN_SECONDS
    assert seen[ReplicaPhase.LEAVING] - seen[ReplicaPhase.DRAINING] <= DRAIN_SECONDS + 6
