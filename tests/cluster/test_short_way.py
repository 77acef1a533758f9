"""Three commands for three machines: UCP and the registry in one go."""

import re
from pathlib import Path

import pytest
from tests.cluster.cluster import CREDENTIALS, RunningCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_a_machine_becomes_a_node_and_gets_a_replica_in_one_command(tmp_path: Path) -> None:
    """The first command prints the line for the others; each is typed as it was printed."""
    with RunningCluster(tmp_path, replicas=3, is_installed=False) as cluster:
        first, *others = cluster.nodes
        shown = first.run(
            ["dtr", "install", "--with-ucp", "--host-address", first.address],
            environment=CREDENTIALS,
            seconds=300,
        ).stdout
        first.keep_agent()
        line = re.search(r"dtr join --token \S+ \S+", shown)
        assert line is not None, shown
        for machine in others:
            shown = machine.run(line.group().split(), environment=CREDENTIALS, seconds=300).stdout
            machine.keep_agent()
        assert "Replicas: 3. Failures tolerated: 1." in shown
        again = others[-1].run(line.group().split(), environment=CREDENTIALS, seconds=300)
        assert "has just been done" in again.stderr
        assert (
            "Pushes and pulls work." in first.run(["dtr", "status"], environment=CREDENTIALS).stdout
        )
