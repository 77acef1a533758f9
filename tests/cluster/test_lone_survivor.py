"""Two machines of three are lost for ever, and with them the majority of everything."""

import os
import random
from pathlib import Path

import pytest
from tests.cluster.cluster import CREDENTIALS, PASSWORD, USERNAME, RunningCluster
from tests.outages.docker import Docker, Record
from tests.outages.images import Image, random_image
from tests.support.machines import Machine
from tests.support.processes import wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        os.environ.get("TEST_OUTAGES") != "all", reason="long: make outages runs it"
    ),
]

INSECURE = "--ucp-insecure-tls"
KINDS = ("etcd", "controller", "patroni", "postgresql", "registry")


def test_one_machine_of_three_goes_on_and_grows_again(tmp_path: Path) -> None:
    """Everything that was acknowledged is pulled from it; lost machines that return do no harm."""
    with RunningCluster(tmp_path) as cluster:
        survivor = cluster.machines[cluster.standbys()[0]]
        lost = [each for each in cluster.nodes if each is not survivor]
        images = [random_image(random.Random(number)) for number in range(3)]
        for number, image in enumerate(images):
            # By the survivor, which has copies then: what only the lost have is lost.
            _docker(cluster, cluster.url_of(survivor.name), "push", number, image)
            _docker(cluster, cluster.url_of(survivor.name), "pull", number, image)
        for machine in lost:
            machine.power_cut()
        _wait_for_silence(survivor)
        for number, image in enumerate(images):
            _docker(cluster, cluster.url_of(survivor.name), "pull", number, image)

        shown = survivor.run(["ucp", "emergency-repair", "--yes"], seconds=500).stdout
        replica = cluster.replicas[survivor.name]
        command = f"dtr emergency-repair --existing-replica-id {replica}"
        assert command in shown, shown
        repaired = cluster.dtr(*command.split()[1:], "--yes", INSECURE, on=survivor.name)
        assert f"Replica {replica} is the primary" in repaired, repaired
        _works(cluster, survivor, images)

        for machine in lost:  # with all that they had, a majority of what there was
            machine.start()
        for machine in lost:
            _wait_until_it_stops(machine)
        _works(cluster, survivor, images)

        for machine in lost:
            machine.run(["ucp", "uninstall", "--yes"], seconds=180)
        for machine in lost:
            _join(cluster, survivor, machine)
        cluster.until_whole()
        _works(cluster, survivor, images)
        for machine in lost:
            for number, image in enumerate(images):
                _docker(cluster, cluster.url_of(machine.name), "pull", number, image)


def _docker(cluster: RunningCluster, url: str, what: str, number: int, image: Image) -> None:
    """Push or pull an image."""

    async def run() -> None:
        docker = Docker(url, (USERNAME, PASSWORD), Record(), cluster.http)
        try:
            repository = f"{USERNAME}/image{number}"
            await (docker.push if what == "push" else docker.pull)(repository, "1", image)
        finally:
            await docker.close()

    cluster.client.call(run(), seconds=150)


def _wait_for_silence(survivor: Machine) -> None:
    """Return once the survivor's controller says that it has no majority."""
    url = f"https://{survivor.address}:8443/_ping"
    shown = ["--insecure", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]

    def is_silent() -> bool:
        return survivor.run(["curl", *shown, url], check=False).stdout == "503"

    wait_until(is_silent, "the controller has no majority", seconds=60)


def _works(cluster: RunningCluster, survivor: Machine, images: list[Image]) -> None:
    """Push one image more, and pull all that were ever pushed."""
    image = random_image(random.Random(100 + len(images)))
    _docker(cluster, cluster.url, "push", len(images), image)
    images.append(image)
    for number, each in enumerate(images):
        for url in (cluster.url, cluster.url_of(survivor.name)):
            _docker(cluster, url, "pull", number, each)


def _wait_until_it_stops(machine: Machine) -> None:
    """Wait until a machine has heard that it is no node any more, and runs nothing."""
    marker = machine.disk.path / "removed"

    def has_stopped() -> bool:
        return marker.exists() and not any(machine.processes(kind) for kind in KINDS)

    wait_until(has_stopped, f"{machine.name} runs nothing any more", seconds=240)


def _join(cluster: RunningCluster, survivor: Machine, machine: Machine) -> None:
    """Make a machine, which has its agent kept since it began, a node and a replica."""
    shown = ["ucp", "token", "show", INSECURE]
    token = survivor.run(shown, environment=CREDENTIALS).stdout.split()[-1]
    joined = {"UCP_JOIN_TOKEN": token}
    machine.run(["ucp", "join", survivor.address], environment=joined, seconds=180)
    cluster.dtr("join", "--ucp-node", machine.name, INSECURE, on=survivor.name)
