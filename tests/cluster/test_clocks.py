"""Clocks that are set wrong while a cluster is under load.

The machines' programs are misled about the time of day, those in C and Python: not etcd, which is
written in Go, and goes by time that has passed.
"""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster import RunningCluster
from tests.cluster.scenario import IS_LONG, NOTHING, Scenario

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not IS_LONG, reason="long: make outages runs it"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

_AN_HOUR = 3600
_WRONG_SECONDS = 25.0
_SEED = random.SystemRandom().randrange(10**6)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RunningCluster]:
    """Give a cluster whose machines have clocks of their own."""
    with RunningCluster(tmp_path, own_clocks=True) as running:
        yield running


def _set_each_clock_ahead(cluster: RunningCluster) -> list[str]:
    """Set one clock after the other an hour ahead, and back."""
    return _set_each_clock(cluster, _AN_HOUR)


def _set_each_clock_back(cluster: RunningCluster) -> list[str]:
    """Set one clock after the other an hour back, and right again."""
    return _set_each_clock(cluster, -_AN_HOUR)


def _boot_with_a_wrong_clock(cluster: RunningCluster) -> list[str]:
    """Switch a standby's machine off, and on with a clock that is an hour ahead."""
    machine = cluster.machines[cluster.standbys()[0]]
    machine.power_off()
    machine.set_clock(_AN_HOUR)
    machine.start()
    cluster.until_whole()
    time.sleep(_WRONG_SECONDS)
    machine.set_clock(0)
    time.sleep(_WRONG_SECONDS)
    return [machine.name]


def _set_each_clock(cluster: RunningCluster, seconds: int) -> list[str]:
    for machine in cluster.nodes:
        for ahead in (seconds, 0):
            machine.set_clock(ahead)
            time.sleep(_WRONG_SECONDS)
    return []


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario("each clock in turn, an hour ahead and back", _set_each_clock_ahead, NOTHING),
        Scenario("each clock in turn, an hour back and right again", _set_each_clock_back, NOTHING),
        Scenario("a standby's machine, begun with a wrong clock", _boot_with_a_wrong_clock, 10),
    ],
    ids=lambda each: each.strike.__name__.strip("_"),
)
def test_a_clock_that_jumps_disturbs_nobody(scenario: Scenario, cluster: RunningCluster) -> None:
    """One machine of three is wrong at a time; tokens and reports of all are understood by all."""
    assert scenario.broken_promises(cluster, _SEED) == []
