"""Five replicas outlive two machines that vanish at once; `make outages` runs it."""

import json
import random

import pytest
from tests.cluster import strikes
from tests.cluster.cluster import RunningCluster
from tests.cluster.scenario import IS_LONG, MACHINE_LOST, PATIENCE, Scenario

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not IS_LONG, reason="long: make outages runs it"),
    # httpx leaves a socket to the garbage collector when its peer dies in a TLS handshake.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

_SEED = random.SystemRandom().randrange(10**6)
# How soon readers are served is measured with three: five are too many for one small machine.
SCENARIOS = [
    Scenario(
        "five replicas: the primary's machine, vanished",
        strikes.primary_vanishes,
        MACHINE_LOST,
        read_gap=PATIENCE,
    ),
    Scenario(
        "five replicas: the machines of the primary and of a standby, vanished at once",
        strikes.primary_and_a_standby_vanish,
        MACHINE_LOST,
        read_gap=PATIENCE,
    ),
    Scenario(
        "five replicas: the primary's, removed and joined anew",
        strikes.primary_is_removed_and_joins,
        write_gap=10,
        read_gap=PATIENCE,
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.strike.__name__)
def test_nothing_is_lost_and_nobody_notices_more(scenario: Scenario, five: RunningCluster) -> None:
    """The same is promised as of three replicas: no push fails while three of five live."""
    told = json.loads(five.on_any_node(["ucp", "status", "--json", "--ucp-insecure-tls"]))
    assert told["failures_tolerated"] == 2, "etcd has five voters"
    assert scenario.broken_promises(five, _SEED + SCENARIOS.index(scenario)) == []
