"""The cluster that the scenarios strike, one after the other."""

import os
from collections.abc import Iterator

import pytest
from tests.cluster.cluster import RunningCluster

IS_LONG = os.environ.get("DTR_OUTAGES") == "all"
_DISK_BYTES = 6 << 30


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Give a cluster of three replicas and a balancer; in the long run with disks of their own.

    It is made once: every test leaves it whole, with a replica on each of its three nodes.
    """
    disk_bytes = _DISK_BYTES if IS_LONG else 0
    directory = tmp_path_factory.mktemp("cluster")
    with RunningCluster(directory, disk_bytes=disk_bytes) as cluster:
        yield cluster
