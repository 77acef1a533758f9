"""Machines die, freeze and are cut off under load: nothing is lost, and nobody notices more.

`make outages` (`DTR_OUTAGES=all`) runs all scenarios, `make test` the most telling. The table of
the last run is in `results/machines.md`.
"""

import os
import random
from dataclasses import dataclass

import pytest
from tests.cluster import strikes
from tests.cluster.cluster import RunningCluster
from tests.cluster.report import Row
from tests.cluster.strikes import Strike
from tests.cluster.watch import Watch

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    # httpx leaves a socket to the garbage collector when its peer dies in a TLS handshake.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

_IS_LONG = os.environ.get("DTR_OUTAGES") == "all"  # as in conftest.py, which is not imported
_SEED = random.SystemRandom().randrange(10**6)
_MACHINE_LOST = 30.0
_NOTHING = 2.5
_READER_PATIENCE = 10.0


@dataclass(frozen=True)
class Scenario:
    """What happens, and what must hold."""

    name: str
    strike: Strike
    write_gap: float
    """How many seconds may pass without a commit, at most."""
    keeps_majority: bool = True
    """Whether pushes must succeed all the while, and pulls of what was pushed a moment ago: with a
    majority gone, the copies that acknowledged it may be gone for as long.
    """
    read_gap: float = _READER_PATIENCE
    """How many seconds a replica that was not struck may be silent."""
    is_short: bool = False


SCENARIOS = [
    Scenario(
        "each kind of process on the primary's machine, killed one after the other",
        strikes.kill_each_kind_of_process,
        write_gap=15,
        is_short=True,
    ),
    Scenario("the balancer, killed", strikes.kill_the_balancer, write_gap=_NOTHING),
    Scenario("the primary's machine, switched off", strikes.primary_loses_power, _MACHINE_LOST),
    Scenario(
        "the primary's machine, vanished",
        strikes.primary_vanishes,
        _MACHINE_LOST,
        is_short=True,
    ),
    Scenario("a standby's machine, vanished", strikes.standby_vanishes, write_gap=10),
    Scenario(
        f"the primary's machine, frozen for {strikes.FROZEN_SECONDS:.0f} s",
        strikes.primary_freezes,
        _MACHINE_LOST,
    ),
    Scenario(
        "the primary's machine, cut off",
        strikes.primary_is_cut_off,
        _MACHINE_LOST,
    ),
    Scenario(
        "the primary's machine, cut off on the way in",
        strikes.primary_hears_nothing,
        _MACHINE_LOST,
    ),
    Scenario(
        "the primary's machine, cut off on the way out",
        strikes.primary_is_not_heard,
        _MACHINE_LOST,
    ),
    Scenario("one etcd of three, frozen", strikes.minority_of_etcd, write_gap=_NOTHING),
    Scenario("two etcds of three, frozen", strikes.majority_of_etcd, write_gap=_NOTHING),
    Scenario(
        f"the control plane, frozen for {strikes.WITHOUT_CONTROL_PLANE_SECONDS:.0f} s",
        strikes.control_plane,
        write_gap=_NOTHING,
    ),
    Scenario("the disk of the primary's machine, full", strikes.full_disk, _MACHINE_LOST),
    Scenario("the disk of the primary's machine, slow", strikes.slow_disk, _MACHINE_LOST),
    Scenario(
        "two machines of three, switched off and on again",
        strikes.majority_loses_power,
        write_gap=strikes.WITHOUT_MAJORITY_SECONDS + 60,
        keeps_majority=False,
        is_short=True,
    ),
    Scenario(
        "all machines, switched off and on again",
        strikes.all_lose_power,
        write_gap=60,
        keeps_majority=False,
    ),
    Scenario(
        "the primary's replica, removed and joined anew",
        strikes.primary_is_removed_and_joins,
        write_gap=10,
        is_short=True,
    ),
    Scenario("two replicas, joined at once", strikes.two_join_at_once, write_gap=10),
]


@pytest.mark.parametrize(
    "scenario",
    [each for each in SCENARIOS if each.is_short or _IS_LONG],
    ids=lambda each: each.strike.__name__,
)
def test_nothing_is_lost_and_nobody_notices_more(
    scenario: Scenario, cluster: RunningCluster
) -> None:
    """All that was acknowledged is there, there was one primary at a time, and all is well again.

    A push or pull whose connection the strike broke where docker tries only once may fail; docker's
    user repeats it, and then it must succeed. Each replica that is not struck must answer all the
    while what it has a copy of, majority or not.
    """
    seed = _SEED + SCENARIOS.index(scenario)
    with Watch(cluster, seed) as watch:
        struck = scenario.strike(cluster)
        healed_seconds = watch.until_over()
    lost = watch.lost()
    survivors = [name for name in watch.readers if name not in struck]
    Row(scenario.name, watch, survivors, healed_seconds, len(lost)).write()

    assert lost == []
    assert watch.history.second_primaries() == []
    if scenario.keeps_majority:
        assert watch.load.failed_again == []
    reads = [watch.readers[name].reads for name in survivors]
    assert [line for each in reads for line in each.failures(watch.struck_at, watch.over_at)] == []
    assert watch.read_gap(survivors) <= scenario.read_gap
    assert watch.write_gap <= scenario.write_gap
