"""What operators do wrong, or in bad times: commands that are killed, nodes that are removed."""

import os
import re
import shutil
from pathlib import Path

import pytest
from tests.cluster.cluster import CREDENTIALS, RunningCluster
from tests.cluster.watch import Watch
from tests.support.machines import Machine
from tests.support.processes import wait_until

_IS_LONG = os.environ.get("TEST_OUTAGES") == "all"

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not _IS_LONG, reason="long: make outages runs it"),
]

_NUMBER = re.compile(r"[0-9.]+ ?s\b|[0-9]+")
_MOST_KILLS = 40


def test_a_command_that_is_killed_at_each_phase_is_run_again(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    """The operation goes on by itself; the command finds it, and ends with what came of it."""
    with Watch(cluster, 1) as watch:
        name = cluster.standbys()[0]
        existing, leaving = cluster.replicas[cluster.primary()], cluster.replicas[name]
        ids = ["--existing-replica-id", existing, "--replica-id", leaving]
        here = cluster.machines[cluster.primary()]
        removed = _killed_at_each_phase(here, ["remove", *ids], tmp_path / "remove")
        assert name not in cluster.replicas
        joined = _killed_at_each_phase(here, ["join", "--ucp-node", name], tmp_path / "join")
        assert name in cluster.replicas
        watch.until_over()
    assert removed > 1
    assert joined > 1
    assert watch.lost() == []
    assert watch.load.failed_again == []


def test_the_credentials_of_a_removed_node_open_nothing(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    """Removed by mistake, it is refused at once and stops; joined anew, all is well."""
    with Watch(cluster, 2) as watch:
        name = cluster.standbys()[0]
        machine, replica = cluster.machines[name], cluster.replicas[name]
        kept = tmp_path / "pki"
        shutil.copytree(machine.disk.path / "pki", kept)
        manager = cluster.machines[cluster.primary()]
        assert _asks_for_wanted(machine, kept, manager) == "200"
        command = ["ucp", "node", "rm", "--force", "--yes", name, "--ucp-insecure-tls"]
        manager.run(command, environment=CREDENTIALS)
        assert _asks_for_wanted(machine, kept, manager) in {"401", "403"}
        wait_until(
            lambda: not any(machine.processes(kind) for kind in ("registry", "patroni")),
            f"nothing of the registry runs on {name}",
            seconds=90,
        )
        if replica in cluster.listed_replicas():
            other = cluster.replicas[cluster.primary()]
            ids = ["--existing-replica-id", other, "--replica-id", replica]
            cluster.dtr("remove", *ids, "--ucp-insecure-tls", on=cluster.primary())
        machine.run(["ucp", "uninstall", "--yes"], seconds=180)
        cluster.join_ucp(machine)
        cluster.join(name)
        watch.until_over()
    assert watch.lost() == []
    assert watch.load.failed_again == []


def _killed_at_each_phase(machine: Machine, words: list[str], log: Path) -> int:
    """Kill a command whenever it shows something new, run it again until it ends; count kills."""
    seen: set[str] = set()
    for count in range(_MOST_KILLS):
        command = ["dtr", *words, "--ucp-insecure-tls"]
        log.unlink(missing_ok=True)
        running = machine.begin(command, log=log, environment=CREDENTIALS)

        def is_news() -> bool:
            lines = {_NUMBER.sub("", line).strip() for line in log.read_text().splitlines()}
            return running.poll() is not None or not lines <= seen  # noqa: B023

        wait_until(is_news, "the command shows something new or ends", seconds=180)
        if running.poll() is not None:
            assert running.returncode == 0, log.read_text()
            return count
        seen |= {_NUMBER.sub("", line).strip() for line in log.read_text().splitlines()}
        machine.kill(f"dtr {words[0]}")
        running.wait(10)
    raise AssertionError(f"{words} did not end after {_MOST_KILLS} kills")


def _asks_for_wanted(machine: Machine, pki: Path, manager: Machine) -> str:
    """Ask a controller as this node's agent does; give the status."""
    url = f"https://{manager.address}:8443/api/ucp/v0/agent/wanted"
    shown: list[str | Path] = [
        "--cert",
        pki / "node.crt",
        "--key",
        pki / "node.key",
        "--cacert",
        pki / "ca.crt",
    ]
    curl = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
    return machine.run([*curl, *shown, url], check=False).stdout
