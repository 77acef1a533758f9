"""A web certificate of the user's own on machines, and what the balancer makes of it."""

import csv
import io
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from tests.cluster.cluster import BALANCER, RunningCluster
from tests.cluster_engines.stand_ins import users_chain
from tests.support.processes import wait_until

_CONNECTIONS = 12


def bring(cluster: RunningCluster) -> None:
    """Have all replicas show a certificate of somebody else's; its file has no root."""
    certificate, key = users_chain()
    first = cluster.nodes[0]
    chain, own = first.disk.path / "chain.pem", first.disk.path / "key.pem"
    chain.write_text(certificate)
    own.write_text(key)
    brought = ["--dtr-cert", str(chain), "--dtr-key", str(own)]
    cluster.dtr("reconfigure", *brought, "--ucp-insecure-tls")


@contextmanager
def drained(cluster: RunningCluster, name: str) -> Iterator[None]:
    """Have the replica of a node answer 503 at `/health`, as one that is being removed."""
    machine = cluster.machines[name]
    # Else it would take the file away again.
    machine.kill("agent", signal.SIGSTOP)
    place = machine.disk.path / "replicas" / cluster.replicas[name] / "registry" / "drain"
    place.touch()
    try:
        yield
    finally:
        place.unlink()
        machine.kill("agent", signal.SIGCONT)


def wait_until_nothing_is_wrong(cluster: RunningCluster) -> None:
    """Return once `dtr status` says so."""
    wait_until(lambda: "Nothing is wrong." in cluster.status(), "all is well", seconds=120)


def served(cluster: RunningCluster) -> dict[str, int]:
    """Connect a few times through the balancer; count by replica, and by last resort."""
    before = _rows(cluster, "stot")

    async def ask() -> None:
        for _ in range(_CONNECTIONS):
            async with httpx.AsyncClient(verify=False, trust_env=False) as http:
                assert (await http.get(f"{cluster.url}/_ping")).status_code == httpx.codes.OK

    cluster.client.call(ask(), seconds=60)
    after = _rows(cluster, "stot")
    counts = {where: int(after[where] or 0) - int(before[where] or 0) for where in after}
    assert sum(counts.values()) == _CONNECTIONS
    return {
        f"{proxy}/{name}".removeprefix("registry/"): each
        for (proxy, name), each in counts.items()
        if each
    }


def wait_for_pool(cluster: RunningCluster, states: dict[str, str]) -> None:
    """Return once HAProxy says so of each replica."""

    def found() -> dict[str, str]:
        rows = _rows(cluster, "status")
        return {
            name: state.partition(" ")[0]
            for (proxy, name), state in rows.items()
            if proxy == "registry"
        }

    wait_until(lambda: found() == states, f"the pool is {states}", seconds=60)


def _rows(cluster: RunningCluster, column: str) -> dict[tuple[str, str], str]:
    """Ask HAProxy for a column of its statistics, by proxy and server."""
    place = os.open(cluster.machines[BALANCER].disk.path / "balancer", os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            # A path below pytest's directories is longer than a socket's may be.
            connection.connect(f"/proc/self/fd/{place}/haproxy.sock")
            connection.sendall(b"show stat\n")
            text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    finally:
        os.close(place)
    rows = csv.DictReader(io.StringIO(text.removeprefix("# ")))
    return {
        (row["pxname"], row["svname"]): row[column]
        for row in rows
        if row["svname"] not in {"FRONTEND", "BACKEND"}
    }
