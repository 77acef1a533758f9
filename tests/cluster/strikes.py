"""What happens to a cluster: each strikes, waits for as long as it is to last, and makes it good.

What makes good is only what hands would do: power, cables, room on a disk. The rest is the
cluster's own business.
"""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from tests.cluster.cluster import RunningCluster, holds
from tests.support.machines import CommandError, Direction, Machine
from tests.support.processes import wait_until

Strike = Callable[[RunningCluster], list[str]]
"""Returns the names of the machines that it took away, whose readers may fail."""

FAILOVER_SECONDS = 60.0
FROZEN_SECONDS = 60.0
CUT_OFF_SECONDS = 45.0
WITHOUT_ETCD_SECONDS = 40.0
WITHOUT_CONTROL_PLANE_SECONDS = 300.0
WITHOUT_MAJORITY_SECONDS = 30.0
SLOW_SECONDS = 30.0
FULL_SECONDS = 60.0
_KINDS = ("controller", "etcd", "patroni", "postgresql", "registry", "agent")


def kill_each_kind_of_process(cluster: RunningCluster) -> list[str]:
    """Kill one kind of process after the other on the primary's machine, each time a whole one."""
    struck = set()
    for kind in _KINDS:
        machine = cluster.machines[cluster.primary()]
        struck.add(machine.name)
        before = {each.pid for each in machine.processes(kind)}
        machine.kill(kind)
        wait_until(
            lambda machine=machine, kind=kind, before=before: any(  # type: ignore[misc]
                each.pid not in before for each in machine.processes(kind)
            ),
            f"{kind} runs again",
            seconds=60,
        )
        cluster.until_whole()
    return sorted(struck)


def kill_the_balancer(cluster: RunningCluster) -> list[str]:
    """Kill HAProxy."""
    machine = cluster.machines["balancer"]
    machine.kill("balancer")
    wait_until(lambda: bool(machine.processes("balancer")), "HAProxy runs again")
    return []


def primary_loses_power(cluster: RunningCluster) -> list[str]:
    """Switch the primary's machine off; another takes over; switch it on again."""
    machine = cluster.machines[cluster.primary()]
    machine.power_off()
    until_another_leads(cluster, machine)
    machine.start()
    return [machine.name]


def primary_vanishes(cluster: RunningCluster) -> list[str]:
    """Likewise, and nobody is told: packets to it are lost."""
    machine = cluster.machines[cluster.primary()]
    machine.power_cut()
    until_another_leads(cluster, machine)
    machine.start()
    return [machine.name]


def primary_and_a_standby_vanish(cluster: RunningCluster) -> list[str]:
    """Let two machines vanish at once, and come back together."""
    primary = cluster.machines[cluster.primary()]
    struck = [primary, cluster.machines[cluster.standbys()[0]]]
    for machine in struck:
        machine.cut_off()
    for machine in struck:
        machine.power_off()
    until_another_leads(cluster, primary)
    for machine in struck:
        machine.start()
    return [machine.name for machine in struck]


def standby_vanishes(cluster: RunningCluster) -> list[str]:
    """Let the machine of a standby vanish, likewise."""
    machine = cluster.machines[cluster.standbys()[0]]
    machine.power_cut()
    time.sleep(FAILOVER_SECONDS / 2)
    machine.start()
    return [machine.name]


def primary_freezes(cluster: RunningCluster) -> list[str]:
    """Stop the primary's machine in its tracks, and let it go on as if nothing had been."""
    machine = cluster.machines[cluster.primary()]
    machine.freeze()
    time.sleep(FROZEN_SECONDS)
    machine.thaw()
    return [machine.name]


def primary_is_cut_off(cluster: RunningCluster) -> list[str]:
    """Pull the cable of the primary's machine, which goes on by itself."""
    return _cut_off(cluster, Direction.BOTH)


def primary_hears_nothing(cluster: RunningCluster) -> list[str]:
    """Drop what comes to the primary's machine; what it sends arrives."""
    return _cut_off(cluster, Direction.INCOMING)


def primary_is_not_heard(cluster: RunningCluster) -> list[str]:
    """Drop what the primary's machine sends; what comes to it arrives."""
    return _cut_off(cluster, Direction.OUTGOING)


def minority_of_etcd(cluster: RunningCluster) -> list[str]:
    """Stop one etcd."""
    _freeze(cluster.nodes[:1], ("etcd",), WITHOUT_ETCD_SECONDS)
    return []


def majority_of_etcd(cluster: RunningCluster) -> list[str]:
    """Stop all but one etcd: nobody can hold the leader's lock, and the primary asks its standbys.

    The databases are left alone.
    """
    _freeze(cluster.nodes[1:], ("etcd",), WITHOUT_ETCD_SECONDS)
    return []


def control_plane(cluster: RunningCluster) -> list[str]:
    """Stop all controllers and every etcd."""
    _freeze(cluster.nodes, ("controller", "etcd"), WITHOUT_CONTROL_PLANE_SECONDS)
    return []


def full_disk(cluster: RunningCluster) -> list[str]:
    """Fill the disk of the primary's machine; then make room.

    Whether another takes over depends on how much of the log PostgreSQL has allocated before.
    """
    machine = cluster.machines[cluster.primary()]
    machine.disk.fill()
    try:
        time.sleep(FULL_SECONDS)
    finally:
        machine.disk.make_room()
    return [machine.name]


def slow_disk(cluster: RunningCluster) -> list[str]:
    """Let the disk of the primary's machine stall for half a second, again and again."""
    machine = cluster.machines[cluster.primary()]
    with machine.disk.slow():
        time.sleep(SLOW_SECONDS)
    return [machine.name]


def majority_loses_power(cluster: RunningCluster) -> list[str]:
    """Switch the primary and all standbys but one off, and on again."""
    survivor = cluster.standbys()[0]
    struck = [cluster.machines[name] for name in cluster.replicas if name != survivor]
    for machine in struck:
        machine.power_off()
    time.sleep(WITHOUT_MAJORITY_SECONDS)
    for machine in struck:
        machine.start()
    return [machine.name for machine in struck]


def all_lose_power(cluster: RunningCluster) -> list[str]:
    """Switch everything off, and on again in another order."""
    for machine in cluster.nodes:
        machine.power_off()
    for machine in reversed(cluster.nodes):
        machine.start()
    return [machine.name for machine in cluster.nodes]


def primary_is_removed_and_joins(cluster: RunningCluster) -> list[str]:
    """Take the primary's replica out, which moves the primary, and put a new one in its place."""
    name = cluster.primary()
    cluster.remove(name)
    cluster.join(name)
    return [name]


def two_join_at_once(cluster: RunningCluster) -> list[str]:
    """Remove two replicas; then two operators join one each at the same time.

    The second one is told that one change goes on at a time, and tries again.
    """
    names = cluster.standbys()[:2]
    for name in names:
        cluster.remove(name)
    with ThreadPoolExecutor() as operators:
        for joined in [operators.submit(_join_in_turn, cluster, name) for name in names]:
            joined.result()
    return names


def _join_in_turn(cluster: RunningCluster, name: str) -> None:
    def is_joined() -> bool:
        try:
            cluster.join(name)
        except CommandError as error:
            if "only one change of that kind may run at a time" not in str(error):
                raise
            return False
        return True

    wait_until(is_joined, f"{name} is joined", seconds=300)


def _cut_off(cluster: RunningCluster, direction: Direction) -> list[str]:
    machine = cluster.machines[cluster.primary()]
    machine.cut_off(direction)
    time.sleep(CUT_OFF_SECONDS)
    machine.heal()
    return [machine.name]


def _freeze(machines: list[Machine], kinds: tuple[str, ...], seconds: float) -> None:
    stopped = [(machine, kind) for machine in machines for kind in kinds if machine.processes(kind)]
    if not stopped:
        raise LookupError(f"no {kinds} runs on {machines}")
    for machine, kind in stopped:
        machine.kill(kind, signal.SIGSTOP)
    time.sleep(seconds)
    for machine, kind in stopped:
        with suppress(LookupError):  # the agent may have started another
            machine.kill(kind, signal.SIGCONT)


def until_another_leads(cluster: RunningCluster, machine: Machine) -> None:
    """Return once the primary is on another machine."""
    wait_until(
        lambda: holds(lambda: cluster.primary() != machine.name),
        f"another than {machine.name} is primary",
        seconds=FAILOVER_SECONDS,
    )
