"""A replica and its machine leave: what was on its disk opens nothing any more."""

import os
import shutil
from pathlib import Path

import pytest
from tests.cluster.cluster import RunningCluster
from tests.support.processes import wait_until

_IS_LONG = os.environ.get("TEST_OUTAGES") == "all"

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not _IS_LONG, reason="long: make outages runs it"),
]

_OPEN = """\
import socket, ssl, sys
address, port, certificate, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.load_cert_chain(certificate, key)
try:
    with socket.create_connection((address, int(port)), timeout=10) as plain:
        with context.wrap_socket(plain) as secured:
            secured.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
            print("open" if secured.recv(1) else "shut")
except (ssl.SSLError, ConnectionError):
    print("shut")
"""
_PORTS = {
    "peer": 2380,
    "server": 2379,
    "controller": 2379,
    "etcd": 2379,
    "database": 8008,
}


def test_what_a_removed_machine_had_opens_nothing(tmp_path: Path) -> None:
    """Of three managers with replicas and a spare, one leaves with a copy of its disk."""
    with RunningCluster(tmp_path, replicas=3, spares=1) as cluster:
        leaver, stays = cluster.machines["node3"], cluster.machines["node1"]
        kept = tmp_path / "kept"
        root = leaver.disk.path
        places = {
            "peer": root / "etcd" / "tls",
            "server": root / "etcd" / "tls",
            "controller": root / "pki" / "engines",
            "etcd": root / "replicas" / cluster.replicas["node3"] / "database",
            "database": root / "replicas" / cluster.replicas["node3"] / "database",
        }
        for name, place in places.items():
            (kept / name).mkdir(parents=True)
            for end in ("crt", "key"):
                shutil.copy(place / f"{name}.{end}", kept / name)
        own = (root / "pki" / "node.key").read_text()
        engines = [path for name in ("etcd", "replicas") for path in (root / name).rglob("*.key")]
        assert len(engines) >= 6
        assert not any(path.read_text() == own for path in engines)

        def opened() -> set[str]:
            return {
                name
                for name, port in _PORTS.items()
                if _is_open(cluster, stays.address, port, kept / name, name)
            }

        assert opened() == set(_PORTS)
        cluster.remove("node3")
        cluster.on_any_node(["ucp", "node", "rm", "node3", "--yes", "--ucp-insecure-tls"])
        cluster.node_names.remove("node3")
        wait_until(lambda: not opened(), "its keys open nothing", seconds=300)
        cluster.until_whole()


def _is_open(cluster: RunningCluster, address: str, port: int, place: Path, name: str) -> bool:
    """Tell whether a port of a machine answers whoever shows this, as seen from another one."""
    command = ["python3", "-c", _OPEN, address, str(port)]
    files = [str(place / f"{name}.{end}") for end in ("crt", "key")]
    # From the machine that left: etcd looks whether a peer comes from where it says.
    shown = cluster.machines["node3"].run([*command, *files], check=False)
    return shown.stdout.strip() == "open"
