"""A cluster whose machines have addresses of IPv6 only."""

import json
import os
import random
import re
from pathlib import Path

import pytest
from tests.cluster.cluster import BALANCER, CREDENTIALS, RunningCluster
from tests.cluster.watch import ACCOUNT
from tests.outages.docker import Docker, Record
from tests.outages.images import Image, random_image
from tests.support.machines import IPV6
from tests.support.processes import wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        os.environ.get("TEST_OUTAGES") != "all", reason="long: make outages runs it"
    ),
]


def test_a_cluster_of_ipv6_serves_and_outlives_its_primary(tmp_path: Path) -> None:
    """All commands as they are typed and printed; nothing needs an address of IPv4."""
    with RunningCluster(tmp_path, replicas=3, is_installed=False, addresses=IPV6) as cluster:
        first, *others = cluster.nodes
        assert first.address == "fd77::11"
        typed = "FD77:0::11"
        shown = first.run(
            ["dtr", "install", "--with-ucp", "--host-address", typed],
            environment=CREDENTIALS,
            seconds=300,
        ).stdout
        first.keep_agent()
        line = re.search(r"UCP_JOIN_TOKEN=(\S+) (dtr join \S+)", shown)
        assert line is not None, shown
        environment = {**CREDENTIALS, "UCP_JOIN_TOKEN": line[1]}
        for machine in others:
            machine.run(line[2].split(), environment=environment, seconds=300)
            machine.keep_agent()
        cluster.join_ucp(cluster.machines[BALANCER])
        cluster.install_balancer()
        cluster.until_whole()
        wait_until(lambda: _managers(cluster) == 3, "every node is a manager", seconds=120)

        images = [random_image(random.Random(number)) for number in range(2)]
        _docker(cluster, "push", "before", images[0])
        primary = cluster.machines[cluster.primary()]
        primary.power_cut()
        _docker(cluster, "push", "after", images[1])
        for tag, image in zip(("before", "after"), images, strict=True):
            _docker(cluster, "pull", tag, image)
        primary.start()
        cluster.until_whole()


def _managers(cluster: RunningCluster) -> int:
    listed = cluster.on_any_node(["ucp", "node", "ls", "--json", "--ucp-insecure-tls"])
    return sum(each["is_manager"] for each in json.loads(listed))


def _docker(cluster: RunningCluster, what: str, tag: str, image: Image) -> None:
    async def run() -> None:
        docker = Docker(cluster.url, ACCOUNT, Record(), cluster.http)
        try:
            await (docker.push if what == "push" else docker.pull)("admin/image", tag, image)
        finally:
            await docker.close()

    cluster.client.call(run(), seconds=150)
