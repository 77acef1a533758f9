"""The controller as a process, on a real etcd: it begins, dies, comes back and ends."""

import os
import signal
import ssl
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.support.etcd import EtcdProcess, TestAuthority
from tests.support.processes import ProcessGroup, free_port, wait_until
from tests.ucp.plane import ADMINISTRATOR, HASH, PASSWORD

from dtr.server.datadir import write_atomically
from dtr.ucp.agent.files import KeyFiles, give_keys, make_directory
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.authority import Authority, make_request, node_names
from dtr.ucp.bootstrap import FirstNode, begin, read_bootstrap
from dtr.ucp.client import UcpClient
from dtr.ucp.keyring import CONTROLLER, Realm
from dtr.ucp.model import Administrator, Wanted

pytestmark = pytest.mark.etcd


class FirstMachine:
    """A machine on which somebody has typed `ucp install --no-start`, and its etcd."""

    def __init__(self, place: Path) -> None:
        self.directory = NodeDirectory(place / "node")
        self.port = free_port()
        now = time.time()
        self.begun = begin(
            self.directory,
            FirstNode("first", "127.0.0.1", self.port),
            Administrator(name=ADMINISTRATOR, password_hash=HASH, changed_at=now),
            now,
        )
        bootstrap = read_bootstrap(self.directory.bootstrap)
        assert bootstrap is not None
        self.authority = Authority.load(self.begun.ca_pem, bootstrap.secrets.ca_key)
        pki = TestAuthority(place / "pki")
        clients = bootstrap.keyring.newest.authorities[Realm.ETCD_CLIENTS]
        pki.authority = Authority.load(clients.certificate, clients.key)
        files = KeyFiles.of(make_directory(self.directory.engine_keys), CONTROLLER.name)
        give_keys(self.directory, bootstrap.keys, CONTROLLER, files)
        self.etcd = EtcdProcess(place / "etcd", pki, self.begun.identity.node_id, "127.0.0.1")
        # The member listens at free ports here, and not at etcd's own.
        wanted = Wanted.model_validate_json(self.directory.wanted.read_bytes())
        told: Wanted = wanted.changed(etcd_urls=(self.etcd.client_url,))
        write_atomically(self.directory.wanted, told.encoded())
        self.controller = ProcessGroup(
            [sys.executable, "-m", "dtr.cli.ucp", "controller", "--data-dir", self.directory.root],
            log=self.directory.logs / "controller.log",
        )

    def client(self) -> UcpClient:
        """Give a client that trusts this control plane only."""
        return UcpClient(f"127.0.0.1:{self.port}", ca_pem=self.begun.ca_pem)

    def wait(self) -> None:
        """Return once the controller answers."""
        with self.client() as client:
            self.controller.wait_until_ready(client.is_healthy, seconds=60)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[FirstMachine]:
    """Give a first machine; nothing runs yet."""
    first = FirstMachine(tmp_path)
    try:
        yield first
    finally:
        first.controller.kill()
        first.etcd.kill()


@pytest.mark.measuring
def test_a_controller_begins_dies_comes_back_and_ends(machine: FirstMachine) -> None:
    """It waits for etcd, and what it wrote is there after it was killed."""
    machine.controller.start()
    log = machine.directory.logs / "controller.log"
    wait_until(lambda: "waiting for etcd" in log.read_text(), "it waits", seconds=60)
    assert machine.directory.bootstrap.exists()
    machine.etcd.start(is_new=True)
    machine.wait()
    assert not machine.directory.bootstrap.exists()
    with machine.client() as client:
        client.login(ADMINISTRATOR, PASSWORD)
        token = client.call("GET", "/token")["token"]
        wait_until(lambda: client.call("GET", "/status")["leader"] == "first", "it leads")
        assert token == machine.begun.token
    os.kill(machine.controller.pid, signal.SIGKILL)
    wait_until(lambda: not machine.controller.is_running, "it is dead")
    machine.controller.start()
    machine.wait()
    with machine.client() as client:
        client.login(ADMINISTRATOR, PASSWORD)
        assert client.call("GET", "/token")["token"] == token
    began = time.monotonic()
    assert machine.controller.stop() == 0
    assert time.monotonic() - began < 15
    text = log.read_text()
    assert PASSWORD not in text
    assert token.rpartition("-")[2] not in text


def test_a_controller_that_is_killed_while_it_begins_begins_again(machine: FirstMachine) -> None:
    """As often as it takes; it is killed a little later each time."""
    machine.etcd.start(is_new=True)
    pauses = iter(range(1, 100))
    while machine.directory.bootstrap.exists():
        machine.controller.start()
        deadline = time.monotonic() + 1.0 + 0.05 * next(pauses)
        wait_until(
            lambda deadline=deadline: (
                time.monotonic() > deadline  # type: ignore[misc]
                or not machine.directory.bootstrap.exists()
            ),
            "the next kill",
        )
        machine.controller.kill()
    machine.controller.start()
    machine.wait()
    with machine.client() as client:
        client.login(ADMINISTRATOR, PASSWORD)
        assert [node["name"] for node in client.nodes()] == ["first"]
        assert client.call("GET", "/token")["token"] == machine.begun.token


def test_a_renewed_certificate_is_shown_without_a_restart(machine: FirstMachine) -> None:
    """The agent writes the files anew; half a pair is not taken."""
    machine.etcd.start(is_new=True)
    machine.controller.start()
    machine.wait()
    pid = machine.controller.pid
    before = shown(machine)
    request = make_request()
    renewed = machine.authority.sign(
        request.request_pem,
        common_name=machine.begun.identity.node_id,
        names=node_names("first", "127.0.0.1"),
        now=datetime.now(UTC),
    )
    write_atomically(machine.directory.key, request.key_pem.encode())
    assert shown(machine) == before
    write_atomically(machine.directory.certificate, renewed.encode(), mode=0o644)
    wait_until(lambda: shown(machine) == ssl.PEM_cert_to_DER_cert(renewed), "the new one is shown")
    assert machine.controller.pid == pid
    assert machine.controller.is_running


def shown(machine: FirstMachine) -> bytes:
    """Give the certificate that the controller shows."""
    pem = ssl.get_server_certificate(("127.0.0.1", machine.port), timeout=20)
    return ssl.PEM_cert_to_DER_cert(pem)
