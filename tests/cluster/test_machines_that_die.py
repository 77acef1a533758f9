"""Machines die, freeze and are cut off under load: nothing is lost, and nobody notices more.

`make outages` (`TEST_OUTAGES=all`) runs all scenarios, `make test` the most telling. The table of
the last run is in `results/machines.md`.
"""

import random

import pytest
from tests.cluster import strikes
from tests.cluster.cluster import RunningCluster
from tests.cluster.scenario import IS_LONG, MACHINE_LOST, NOTHING, Scenario

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    # httpx leaves a socket to the garbage collector when its peer dies in a TLS handshake.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

_SEED = random.SystemRandom().randrange(10**6)

SCENARIOS = [
    Scenario(
        "each kind of process on the primary's machine, killed one after the other",
        strikes.kill_each_kind_of_process,
        write_gap=15,
        is_short=True,
    ),
    Scenario("the balancer, killed", strikes.kill_the_balancer, write_gap=NOTHING),
    Scenario("the primary's machine, switched off", strikes.primary_loses_power, MACHINE_LOST),
    Scenario(
        "the primary's machine, vanished",
        strikes.primary_vanishes,
        MACHINE_LOST,
        is_short=True,
    ),
    Scenario("a standby's machine, vanished", strikes.standby_vanishes, write_gap=10),
    Scenario(
        f"the primary's machine, frozen for {strikes.FROZEN_SECONDS:.0f} s",
        strikes.primary_freezes,
        MACHINE_LOST,
    ),
    Scenario(
        "the primary's machine, cut off",
        strikes.primary_is_cut_off,
        MACHINE_LOST,
    ),
    Scenario(
        "the primary's machine, cut off on the way in",
        strikes.primary_hears_nothing,
        MACHINE_LOST,
    ),
    Scenario(
        "the primary's machine, cut off on the way out",
        strikes.primary_is_not_heard,
        MACHINE_LOST,
    ),
    Scenario("one etcd of three, frozen", strikes.minority_of_etcd, write_gap=NOTHING),
    Scenario("two etcds of three, frozen", strikes.majority_of_etcd, write_gap=NOTHING),
    Scenario(
        f"the control plane, frozen for {strikes.WITHOUT_CONTROL_PLANE_SECONDS:.0f} s",
        strikes.control_plane,
        write_gap=NOTHING,
    ),
    Scenario("the disk of the primary's machine, full", strikes.full_disk, MACHINE_LOST),
    Scenario("the disk of the primary's machine, slow", strikes.slow_disk, MACHINE_LOST),
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
    [each for each in SCENARIOS if each.is_short or IS_LONG],
    ids=lambda each: each.strike.__name__,
)
def test_nothing_is_lost_and_nobody_notices_more(
    scenario: Scenario, cluster: RunningCluster
) -> None:
    """All that was acknowledged is there, there was one primary at a time, and all is well again.

    What else is promised stands in `Scenario`.
    """
    assert scenario.broken_promises(cluster, _SEED + SCENARIOS.index(scenario)) == []
