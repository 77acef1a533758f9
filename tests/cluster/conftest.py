"""The clusters that the scenarios strike, one after the other."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from tests.cluster.cluster import RunningCluster
from tests.cluster.scenario import IS_LONG

_DISK_BYTES = 6 << 30

GetCluster = Callable[[int], RunningCluster]


@pytest.fixture(scope="session")
def get_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GetCluster]:
    """Give a way to a cluster of so many replicas, which ends the one of another size.

    One cluster at a time is as much as a small machine can run and still answer.
    """
    disk_bytes = _DISK_BYTES if IS_LONG else 0
    running: dict[int, RunningCluster] = {}
    with ExitStack() as stack:

        def get(replicas: int) -> RunningCluster:
            if replicas not in running:
                stack.close()
                running.clear()
                directory = tmp_path_factory.mktemp("cluster")
                made = RunningCluster(directory, replicas=replicas, disk_bytes=disk_bytes)
                running[replicas] = stack.enter_context(made)
            return running[replicas]

        yield get


@pytest.fixture
def cluster(get_cluster: GetCluster) -> RunningCluster:
    """Give a cluster of three replicas and a balancer; in the long run with disks of their own.

    It is made once: every test leaves it whole, with a replica on each of its three nodes.
    """
    return get_cluster(3)


@pytest.fixture
def five(get_cluster: GetCluster) -> RunningCluster:
    """Give a cluster of five replicas, likewise."""
    return get_cluster(5)
