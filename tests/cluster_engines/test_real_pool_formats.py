"""Balancers of the user's own with real connections, while replicas die one after the other."""

import http.client
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.cluster_engines.nodes import TestNode
from tests.cluster_engines.stand_ins import Replica, connection_to, member, name_at, serving
from tests.support.machines import Machine, Machines
from tests.support.processes import ProcessGroup, free_port, requires, wait_until

from dtr.cluster.model import PoolMember
from dtr.cluster.pool_formats import PoolFormat, PoolOptions, render
from dtr.ucp.authority import Authority

SECONDS = 60
FLOATING = "10.77.0.99"
KEEPALIVED = Path("/run/keepalived.conf")
Replicas = dict[str, Replica]
Balancer = Callable[[Path, Replicas], AbstractContextManager[http.client.HTTPSConnection]]


@pytest.fixture
def replicas(authority: Authority, short_directory: Path) -> Iterator[Replicas]:
    """Give three that serve on the same port of their own addresses."""
    port = free_port()
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                serving(TestNode.create(authority, short_directory / name, address, name), port)
            )
            for name, address in (("n2", "127.0.0.2"), ("n3", "127.0.0.3"), ("n4", "127.0.0.4"))
        }


@contextmanager
def nginx(directory: Path, replicas: Replicas) -> Iterator[http.client.HTTPSConnection]:
    """Run it before replicas; clients see the replicas' certificates."""
    requires("nginx")
    directory.mkdir()
    ca = directory.parent / "n2" / "pki" / "ca.crt"
    options = PoolOptions(https_port=free_port(), http_port=free_port())
    file = directory / "nginx.conf"
    file.write_text(render(PoolFormat.NGINX, _pool(replicas), options))
    own = f"daemon off; error_log stderr; pid {directory}/pid;"
    command: list[str | Path] = ["nginx", "-e", "stderr", "-c", file, "-g", own]
    with _running(command, directory, options.https_port, ca) as connection:
        yield connection


@contextmanager
def caddy(directory: Path, replicas: Replicas) -> Iterator[http.client.HTTPSConnection]:
    """Run it before replicas, whose certificates it checks; clients see one of its own."""
    requires("caddy")
    directory.mkdir()
    theirs = directory.parent / "n2" / "pki" / "ca.crt"
    options = PoolOptions(https_port=free_port(), host="localhost", ca_file=str(theirs))
    # What would touch the machine that the test runs on: its trust, and other ports.
    apart = "{\n\tadmin off\n\tskip_install_trust\n\tauto_https disable_redirects\n}\n"
    file = directory / "Caddyfile"
    file.write_text(apart + render(PoolFormat.CADDY, _pool(replicas), options))
    home = [f"HOME={directory}", f"XDG_DATA_HOME={directory}", f"XDG_CONFIG_HOME={directory}"]
    command: list[str | Path] = [
        "env",
        *home,
        "caddy",
        "run",
        "--adapter",
        "caddyfile",
        "--config",
        file,
    ]
    ca = directory / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    with _running(command, directory, options.https_port, ca) as connection:
        yield connection


@pytest.mark.server
@pytest.mark.parametrize("balancer", [nginx, caddy])
def test_every_request_is_answered_while_one_replica_lives(
    replicas: Replicas, short_directory: Path, balancer: Balancer
) -> None:
    """First by all of them; then by those that are left, from the very first request on."""
    with balancer(short_directory / "balancer", replicas) as connection:
        expected = set(replicas)
        wait_until(lambda: {_ask(connection) for _ in range(6)} == expected, "all answer")
        for name in ("n2", "n3"):
            replicas.pop(name).die()
            assert {_ask(connection) for _ in range(10)} <= set(replicas)


@pytest.mark.cluster
def test_an_address_moves_to_a_healthy_replica(tmp_path: Path) -> None:
    """Keepalived finds its file valid, and gives the address to who answers at /health."""
    requires("keepalived", "curl", "openssl")
    with ExitStack() as ends, Machines(["left", "right"], tmp_path) as machines:
        pool = [
            PoolMember(id=each.name, address=each.address, https_port=443, http_port=80)
            for each in machines
        ]
        text = render(PoolFormat.KEEPALIVED, pool, PoolOptions(host=FLOATING))
        for machine in machines:
            for process in _begin_keepalived(machine, text, tmp_path):
                ends.callback(process.wait, SECONDS)  # once the machine has no power
        left, right = machines["left"], machines["right"]
        wait_until(lambda: _has_address(left) or _has_address(right), "one has it", seconds=SECONDS)
        first, other = (left, right) if _has_address(left) else (right, left)
        assert not _has_address(other)
        first.kill("s_server")
        wait_until(lambda: _has_address(other), "the other one has it", seconds=SECONDS)
        wait_until(lambda: not _has_address(first), "the first has given it up", seconds=SECONDS)


def _pool(replicas: Replicas) -> list[PoolMember]:
    return [member(name, each.node, each.server_port) for name, each in replicas.items()]


@contextmanager
def _running(
    command: list[str | Path], directory: Path, port: int, ca: Path
) -> Iterator[http.client.HTTPSConnection]:
    """Run a balancer; give what connects to it anew for each request."""
    group = ProcessGroup(command, log=directory / "log")
    group.start()
    try:
        group.wait_until_ready(lambda: ca.exists() and _answers(connection_to(port, ca)))
        yield connection_to(port, ca)
    finally:
        group.kill()


def _answers(connection: http.client.HTTPSConnection) -> bool:
    try:
        return bool(_ask(connection))
    except OSError:
        return False


def _ask(connection: http.client.HTTPSConnection) -> str:
    try:
        return name_at(connection)
    finally:
        connection.close()


def _begin_keepalived(
    machine: Machine, text: str, logs: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start something healthy at port 443, then keepalived, whose own check comes first."""
    machine.run(["tee", KEEPALIVED], stdin=text)
    machine.run(["sh", "-c", "echo well >/run/health"])
    subject = ["-subj", "/CN=stand-in", "-keyout", "/run/key", "-out", "/run/certificate"]
    machine.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject])
    pair = "-cert /run/certificate -key /run/key"
    serve = f"cd /run && exec openssl s_server -quiet -WWW -accept 443 {pair}"
    yield machine.begin(["sh", "-c", serve], log=logs / f"{machine.name}-health.log")
    # Where it runs as root, version 2.2 ends its own check of a script's user with SIGTERM.
    check = ["env", "--ignore-signal=TERM", "keepalived", "--config-test", "--use-file"]
    machine.run([*check, KEEPALIVED])
    machine.run(["sh", "-c", f"sed s/eth0/nosuch0/ {KEEPALIVED} >/run/wrong"])
    assert machine.run([*check, "/run/wrong"], check=False).returncode != 0
    run = ["keepalived", "--dont-fork", "--log-console", "--use-file", str(KEEPALIVED)]
    yield machine.begin(run, log=logs / f"{machine.name}-keepalived.log")


def _has_address(machine: Machine) -> bool:
    return FLOATING in machine.run(["ip", "address", "show", "dev", "eth0"]).stdout
