"""Whatever `dtr status` shows as bad is among the problems, in a sentence."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from rich.console import Console
from tests.cluster_plan.simulation import Simulation, cluster_of, replica_id

from dtr.cli.cluster.rendering import BALANCER_COLUMNS, REPLICA_COLUMNS, rendered
from dtr.cluster.issues import MUCH_LAG_BYTES
from dtr.cluster.model import DatabaseReport, ReplicaPhase, StorageReport
from dtr.cluster.operations import INSTALL_BALANCER
from dtr.cluster.status import cluster_status
from dtr.cluster.view import ClusterView, Machine
from dtr.ucp.model import Manager, ManagerPhase

BAD = replica_id(2)
HEAD = "head"


@dataclass(frozen=True)
class Case:
    """A cell that is bad: where, how it is made so, what it then shows, and its sentence."""

    place: str
    spoil: Callable[[ClusterView], ClusterView]
    shown: str
    sentence: str


def machine(view: ClusterView, number: int, change: Callable[[Machine], Machine]) -> ClusterView:
    """Return the view with another machine in place of one."""
    node_id = f"node-id-{number}"
    return replace(view, machines={**view.machines, node_id: change(view.machines[node_id])})


def reporting(number: int, **values: object) -> Callable[[ClusterView], ClusterView]:
    """Have a node report other things of itself."""

    def change(old: Machine) -> Machine:
        assert old.report is not None
        return replace(old, report=old.report.changed(**values))

    return lambda view: machine(view, number, change)


def replica(number: int, **values: object) -> Callable[[ClusterView], ClusterView]:
    """Have a replica report other things of itself."""

    def change(old: Machine) -> Machine:
        assert old.replica is not None
        return replace(old, replica=old.replica.changed(**values))

    return lambda view: machine(view, number, change)


def record(**values: object) -> Callable[[ClusterView], ClusterView]:
    """Have the bad replica be kept otherwise."""
    return lambda view: replace(
        view,
        replicas=tuple(
            each.changed(**values) if each.id == BAD else each for each in view.replicas
        ),
    )


def balancer(**values: object) -> Callable[[ClusterView], ClusterView]:
    """Have the balancer report other things."""

    def change(old: Machine) -> Machine:
        assert old.balancer is not None
        return replace(old, balancer=old.balancer.changed(**values))

    return lambda view: machine(view, 4, change)


def pool(*states: str) -> dict[str, str]:
    """Return what a balancer says of the three replicas."""
    return {replica_id(number): state for number, state in enumerate(states, 1)}


def managed(count: int, silent: int = 0) -> Callable[[ClusterView], ClusterView]:
    """Have so many managers, of which some do not report."""

    def change(view: ClusterView) -> ClusterView:
        managers = tuple(
            Manager(
                node_id=f"node-id-{5 - number}",
                peer_url="",
                phase=ManagerPhase.VOTER,
                initial_cluster="",
                is_new_cluster=False,
            )
            for number in range(1, count + 1)
        )
        for number in range(1, silent + 1):
            view = machine(view, 5 - number, lambda old: replace(old, report=None))
        return replace(view, managers=managers)

    return change


def gone(view: ClusterView) -> ClusterView:
    """Have the node of the bad replica be no node any more."""
    return replace(view, machines={k: v for k, v in view.machines.items() if k != "node-id-2"})


def without_primary(view: ClusterView) -> ClusterView:
    """Have nobody hold the leader key."""
    return replace(view, patroni=replace(view.patroni, leader=""))


LOW = {"disk_total_bytes": 100 * 2**30, "disk_free_bytes": 2**30}
BEHIND = DatabaseReport(is_answering=True, state="running", is_streaming=True, wal_position=1)
AHEAD = DatabaseReport(
    is_answering=True, state="running", role="primary", wal_position=2 * MUCH_LAG_BYTES
)
CASES = [
    Case(HEAD, without_primary, "Pushes do not work", "There is no primary"),
    Case(HEAD, replica(1, is_healthy=False), "Pushes do not work", "cannot be written to"),
    Case(HEAD, replica(1, is_read_only=True), "pushes are refused", "dtr read-only off"),
    Case(HEAD, managed(3, silent=1), "0 of 3 managers", "manager node4 does not report"),
    Case(HEAD, managed(1), "0 of 1 managers", "ucp node promote"),
    Case(HEAD, replica(2, is_healthy=False), "0 of 3 replicas", f"Replica {BAD} on node2"),
    Case("node", gone, "no longer in UCP", f"The node of replica {BAD} was removed"),
    Case("role", replica(2, database=DatabaseReport()), "  -  ", f"of replica {BAD} does not foll"),
    Case("phase", record(is_counted=False), "not counted", f"Replica {BAD} on node2 is left from"),
    Case("health", replica(2, is_healthy=False), "FAILED", f"{BAD} on node2 is not healthy"),
    Case(
        "lag",
        lambda view: replica(2, database=BEHIND)(replica(1, database=AHEAD)(view)),
        "512.0 MiB",
        f"replica {BAD} is 512 MiB behind",
    ),
    Case("disk free", reporting(2, **LOW), "1.0 GiB (1%)", "The disk of node2 has"),
    Case(
        "blobs",
        replica(2, storage=StorageReport(blobs=9, under_copied=7)),
        "7 lack copies",
        f"7 blobs have fewer copies than they should, as replica {BAD}",
    ),
    Case("version", replica(2, version="0.0.9"), "0.0.9", f"Replica {BAD} runs version 0.0.9"),
    Case(
        "certificate",
        reporting(2, certificate_expires_at=1_000_900.0),
        "1970-01-12",
        "The certificate of node2 expires",
    ),
    Case("reported", reporting(2, received_at=999_000.0), " s ago", "node2 has told nothing"),
    Case("state", balancer(is_ready=False, message="It is ill."), "It is ill.", "is not ready: It"),
    Case("pool", balancer(pool=pool("UP", "DOWN", "UP")), f"{BAD}:DOWN", f"sends nothing to {BAD}"),
    Case(
        "pool",
        balancer(pool=pool("DOWN", "DOWN", "DOWN")),
        f"{BAD}:DOWN",
        "every replica is down",
    ),
    Case("pool", balancer(pool=pool("UP", "MAINT", "UP")), f"{BAD}:MAINT", f"nothing to {BAD}"),
]
NAMES_ONLY = {"replica", "load balancer", "address"}
"""They show what something is called."""


def shown(view: ClusterView, now: float) -> str:
    """Return the status as people see it."""
    console = Console(file=io.StringIO(), width=10_000)
    console.print(rendered(cluster_status(view, now)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def healthy() -> Simulation:
    """Return three replicas and a balancer."""
    simulation = await cluster_of(3, machines=4)
    await simulation.run(INSTALL_BALANCER, node="node4")
    await simulation.tick(70)
    return simulation


def test_every_column_has_a_bad_cell_here() -> None:
    """A new column gets its line in the table above."""
    places = {each.place for each in CASES} - {HEAD}
    assert places == {*REPLICA_COLUMNS, *BALANCER_COLUMNS} - NAMES_ONLY


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.place}: {case.sentence[:30]}")
async def test_every_bad_cell_has_its_sentence(case: Case) -> None:
    """And without it the sentence is not there."""
    simulation = await healthy()
    view = await simulation.view()
    before = shown(view, simulation.now)
    assert "Nothing is wrong." in before
    after = shown(case.spoil(view), simulation.now)
    assert case.shown in after
    assert case.sentence in after
    assert "Nothing is wrong." not in after
    assert case.sentence not in before


@pytest.mark.parametrize("phase", [ReplicaPhase.DATABASE, ReplicaPhase.DRAINING])
async def test_a_replica_on_its_way_is_not_said_to_have_failed(phase: ReplicaPhase) -> None:
    """It does not serve yet, or no more; what has gone wrong with it, its operation says."""
    simulation = await healthy()
    view = record(phase=phase)(replica(2, is_healthy=False)(await simulation.view()))
    assert "FAILED" not in shown(view, simulation.now)
