"""What a cluster promises of those that acknowledge, held against a simulated one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cluster_plan.simulation import Simulation

_STRICT = 3


def check_majority(simulation: "Simulation") -> None:
    """Hold that a majority of what counts has acknowledged, as long as a majority lives."""
    counted = {each.id for each in simulation.records() if each.is_counted}
    majority = len(counted) // 2 + 1
    live = [each for each in simulation.running() if each.id in counted]
    if len(counted) >= _STRICT and len(live) >= majority and not simulation.gives_up_durability:
        assert len(simulation.acknowledgers & counted) >= majority, "too few have acknowledged"


def check_one_more_may_die(simulation: "Simulation") -> None:
    """Hold that, of more than a majority that live, any standby may die and writes go on.

    Which is to say that a majority of what counts still acknowledges them, as soon as Patroni has
    seen it.
    """
    counted = {each.id for each in simulation.records() if each.is_counted}
    live = [each for each in simulation.running() if each.id in counted]
    primary, config = simulation.primary, simulation.object_of_patroni("config")
    majority = len(counted) // 2 + 1
    if primary is None or config is None or len(live) <= majority:
        return
    wanted = int(config["synchronous_node_count"])
    for dead in live:
        if dead is not primary:
            takers = {*simulation.active(primary, wanted)} & counted - {dead.id}
            both = min(wanted, len(takers)) + (primary.id in counted)
            assert both >= majority, f"without {dead.id}, {takers} are too few of {counted}"
