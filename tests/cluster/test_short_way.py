"""Three commands for three machines: UCP and the registry in one go."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.cluster import web_certificate
from tests.cluster.cluster import BALANCER, CREDENTIALS, RunningCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Made:
    """A cluster, and what the commands said that made it."""

    cluster: RunningCluster
    joined: str
    joined_again: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Give a cluster of three commands; each is typed as it was printed."""
    place = tmp_path_factory.mktemp("short")
    with RunningCluster(place, replicas=3, is_installed=False) as cluster:
        first, *others = cluster.nodes
        shown = first.run(
            ["dtr", "install", "--with-ucp", "--host-address", first.address],
            environment=CREDENTIALS,
            seconds=300,
        ).stdout
        first.keep_agent()
        line = re.search(r"UCP_JOIN_TOKEN=(\S+) (dtr join \S+)", shown)
        assert line is not None, shown
        environment = {**CREDENTIALS, "UCP_JOIN_TOKEN": line[1]}
        for machine in others:
            shown = machine.run(line[2].split(), environment=environment, seconds=300).stdout
            machine.keep_agent()
        again = others[-1].run(line[2].split(), environment=environment, seconds=300)
        yield Made(cluster, shown, again.stderr)


def test_a_machine_becomes_a_node_and_gets_a_replica_in_one_command(made: Made) -> None:
    """The first command prints the line for the others; each is typed as it was printed."""
    assert "Replicas: 3. Failures tolerated: 1." in made.joined
    assert "has just been done" in made.joined_again
    first = made.cluster.nodes[0]
    assert "Pushes and pulls work." in first.run(["dtr", "status"], environment=CREDENTIALS).stdout


def test_with_the_users_certificate_a_drained_and_a_dead_replica_get_nobody(made: Made) -> None:
    """All are up in the pool, the status finds nothing wrong, and the last resort is not used."""
    cluster = made.cluster
    cluster.join_ucp(cluster.machines[BALANCER])
    cluster.install_balancer()
    web_certificate.bring(cluster)
    replicas = cluster.replicas
    drained, dead, left = cluster.node_names
    states = dict.fromkeys(replicas.values(), "UP")
    web_certificate.wait_for_pool(cluster, states)
    web_certificate.wait_until_nothing_is_wrong(cluster)
    with web_certificate.drained(cluster, drained):
        web_certificate.wait_for_pool(cluster, states | {replicas[drained]: "DOWN"})
        assert set(web_certificate.served(cluster)) == {replicas[dead], replicas[left]}
        cluster.machines[dead].power_off()
        web_certificate.wait_for_pool(
            cluster, states | {replicas[drained]: "DOWN", replicas[dead]: "DOWN"}
        )
        assert set(web_certificate.served(cluster)) == {replicas[left]}
    cluster.machines[dead].start()
    web_certificate.wait_for_pool(cluster, states)
