"""A majority of the replicas is lost for ever while the control plane keeps its own."""

import os
from pathlib import Path

import pytest
from tests.cluster.cluster import RunningCluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        os.environ.get("TEST_OUTAGES") != "all", reason="long: make outages runs it"
    ),
]


def test_a_cluster_goes_on_from_one_replica_and_grows_again(tmp_path: Path) -> None:
    """Two replicas' machines of three are gone; two more nodes keep UCP's majority."""
    with RunningCluster(tmp_path, replicas=3, spares=2) as cluster:
        survivor = cluster.standbys()[0]
        gone = [name for name in cluster.replicas if name != survivor]
        chosen = cluster.replicas[survivor]
        for name in gone:
            cluster.machines[name].power_cut()
        words = ["emergency-repair", "--existing-replica-id", chosen, "--yes"]
        shown = cluster.dtr(*words, "--ucp-insecure-tls", on=survivor, seconds=300)
        assert f"Replica {chosen} is the primary" in shown, shown
        assert "Replicas: 1. Failures tolerated: 0." in shown
        cluster.join("node4")
        cluster.join("node5")
        status = cluster.dtr("status", "--ucp-insecure-tls", on=survivor)
        assert "Pushes and pulls work." in status
        assert "1 of 3 replicas" in status
