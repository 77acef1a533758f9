"""Real members of etcd, run by the product's component: who is let in at which port, and when."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.support.doors import is_let_in, written
from tests.support.processes import requires
from tests.ucp.managers import ManagerMachine, Managers, separate

from dtr.model.errors import UnavailableError
from dtr.ucp.agent.files import KeyFiles
from dtr.ucp.etcd import EtcdConnection, EtcdStore
from dtr.ucp.etcd.component import client_files
from dtr.ucp.keyring import KINDS, OF_SERVICES, Keyring, Stage, first_keyring, issue
from dtr.ucp.model import ETCD_CLIENT_PORT, ETCD_PEER_PORT, Node
from dtr.ucp.store import Put
from dtr.ucp.wanted import client_url

pytestmark = [pytest.mark.etcd, pytest.mark.timeout(240)]


@asynccontextmanager
async def running(place: Path, count: int, keyring: Keyring | None) -> AsyncIterator[Managers]:
    """Give managers that run; without a keyring, as before engines had keys of their own."""
    requires("etcd")
    managers = Managers(place, count)
    machines = list(managers.machines)
    try:
        await managers.start(keyring)
        yield managers
    finally:
        await managers.close()
        await asyncio.gather(*(each.supervisor.close() for each in machines))


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch) -> None:
    separate(monkeypatch.setattr)


def identity_of(machine: ManagerMachine) -> KeyFiles:
    """Give the certificate that the node itself shows."""
    directory = machine.directory
    return KeyFiles(directory.ca, directory.certificate, directory.key)


class Writer:
    """Writes all the time, and measures for how long nothing was taken."""

    def __init__(self, managers: Managers) -> None:
        urls = [client_url(each.node) for each in managers.machines]
        self.connection = EtcdConnection(urls, client_files(managers.machines[0].directory))
        self.longest = 0.0
        self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        store = EtcdStore(self.connection)
        last = time.monotonic()
        while True:
            with suppress(UnavailableError):
                await store.commit([Put("/test/count", b"x")])
                now = time.monotonic()
                self.longest, last = max(self.longest, now - last), now
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End it."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.connection.close()


async def settle(managers: Managers, generation: int) -> set[Stage]:
    """Go on until a generation is the only one, and return the stages on the way.

    At each look at most one member is being restarted.
    """
    seen: set[Stage] = set()
    while True:
        await managers.cycle()
        keyring = await managers.keyring()
        states = {each.node.id: each.supervisor.report("etcd").state for each in managers.machines}
        assert sum(state != "ready" for state in states.values()) <= 1, states
        if keyring is None:
            continue
        seen.add(keyring.stage)
        if keyring.stage is Stage.SETTLED and keyring.newest.number == generation:
            return seen
        await asyncio.sleep(0.1)


async def test_a_control_plane_that_runs_moves_to_keys_of_its_own(tmp_path: Path) -> None:
    """Nodes' certificates opened both ports before, and open none after; etcd goes on meanwhile."""
    async with running(tmp_path, 3, None) as managers:
        address = managers.machines[0].node.host_address
        own = identity_of(managers.machines[1])
        ports = (ETCD_CLIENT_PORT, ETCD_PEER_PORT)
        assert [is_let_in(address, port, own) for port in ports] == [True, True]
        writer = Writer(managers)
        try:
            seen = await settle(managers, 1)
        finally:
            await writer.stop()
        assert seen == {Stage.TRUST, Stage.USE, Stage.DROP, Stage.SETTLED}
        assert [is_let_in(address, port, own) for port in ports] == [False, False]
        assert [is_let_in(address, port, None) for port in ports] == [False, False]
        for machine in managers.machines:
            assert machine.supervisor.report("etcd").restarts == 0
            key = machine.directory.key.read_text()
            place = machine.directory.of("etcd") / "tls"
            assert not any(key in path.read_text() for path in place.iterdir())
        # An election on a busy machine; without a majority no write would come through at all.
        assert writer.longest < 20, writer.longest


async def test_who_left_is_let_in_nowhere(tmp_path: Path) -> None:
    """Neither a manager's keys, nor a worker's, nor an engine's of another realm."""
    async with running(tmp_path, 4, first_keyring("c", time.time())) as managers:
        leaver, first = managers.machines[3], managers.machines[0]
        kept = leaver.directory.of("etcd") / "tls"
        old = {name: KeyFiles.of(kept, name) for name in ("peer", "server")}
        old["controller"] = KeyFiles.of(leaver.directory.engine_keys, "controller")
        old["node"] = identity_of(leaver)
        address = first.node.host_address
        opened = {
            (name, port)
            for name, files in old.items()
            for port in (ETCD_CLIENT_PORT, ETCD_PEER_PORT)
            if is_let_in(address, port, files)
        }
        assert opened == {
            ("peer", ETCD_PEER_PORT),
            ("server", ETCD_CLIENT_PORT),
            ("controller", ETCD_CLIENT_PORT),
        }
        _engines_are_refused(await managers.keyring(), first.node, tmp_path / "engines")
        await managers.remove(leaver)
        await settle(managers, 2)
        for machine in managers.machines:
            for port in (ETCD_CLIENT_PORT, ETCD_PEER_PORT):
                for name, files in old.items():
                    assert not is_let_in(machine.node.host_address, port, files), (name, port)
        fresh = KeyFiles.of(first.directory.of("etcd") / "tls", "peer")
        assert is_let_in(managers.machines[1].node.host_address, ETCD_PEER_PORT, fresh)


def _engines_are_refused(keyring: Keyring | None, node: Node, place: Path) -> None:
    """Try what a replica's engines hold: only Patroni's opens a port of etcd, that of clients."""
    assert keyring is not None
    worker = node.changed(id="worker", name="worker", host_address="127.0.0.1")
    held = issue(keyring, worker, OF_SERVICES["replica"], time.time())
    for name, pair in held.pairs.items():
        files = written(place, name, pair)
        assert not is_let_in(node.host_address, ETCD_PEER_PORT, files), name
        is_client = KINDS[name].realm == KINDS["patroni"].realm
        assert is_let_in(node.host_address, ETCD_CLIENT_PORT, files) is is_client, name
