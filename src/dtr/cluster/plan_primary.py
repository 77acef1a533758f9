"""Where the primary should be: who may take its place, and when its machine is no place for it."""

from typing import Final

from dtr.cluster.model import Replica
from dtr.cluster.plan_actions import AskSwitchover, Decision
from dtr.cluster.plan_checks import LEAST_FREE_BYTES
from dtr.cluster.view import ClusterView, Machine, illness, is_streaming

CROWDED_BYTES: Final = 128 << 20
"""With less free disk than this, a database may not be able to write its next page."""


def successors(view: ClusterView, leaving_id: str, now: float) -> list[Replica]:
    """Return who may become the primary in place of a replica, the most advanced first.

    Healthy replicas that count, have all acknowledged commits, and follow.
    """

    def position(each: Replica) -> tuple[int, str]:
        report = view.report_of(each)
        return (report.database.wal_position if report else 0, each.id)

    able = [
        each
        for each in view.counted
        if each.id != leaving_id
        and each.id in view.patroni.voters
        and not illness(view, each, now)
        and is_streaming(view, each, now)
    ]
    return sorted(able, key=position, reverse=True)


def off_full_disk(view: ClusterView, now: float) -> Decision | None:
    """Return how the primary leaves a machine whose disk is full; None where it may stay.

    PostgreSQL without room refuses writes and stays primary: to Patroni it is healthy. It moves
    only if some machine has plenty of room, so that it does not move back and forth between full
    ones. Which one takes over is Patroni's choice, by who has every commit; from one without room
    it moves on.
    """
    primary = view.replica(view.patroni.leader)
    machine = view.machine_of(primary) if primary else None
    if primary is None or machine is None or view.patroni.is_switching:
        return None
    if not view.is_fresh(machine, now) or _free_bytes(machine) >= CROWDED_BYTES:
        return None
    places = (view.machine_of(each) for each in successors(view, primary.id, now))
    if not any(place and _free_bytes(place) >= LEAST_FREE_BYTES for place in places):
        return None
    reason = f"the primary moves: the disk of {machine.node.name} is full"
    return Decision((AskSwitchover(primary.id, ""),), reason)


def _free_bytes(machine: Machine) -> int:
    return machine.report.disk_free_bytes if machine.report else 0
