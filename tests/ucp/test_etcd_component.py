"""An etcd member is run as it is wanted, left alone when it can be, and cleared away at the end."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.etcd import LIMITS, TestAuthority
from tests.support.processes import free_port, requires

from dtr.testing.stores import until
from dtr.testing.supervisor import RecordingSupervisor
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.agent.supervisor import ProcessSupervisor
from dtr.ucp.etcd import EtcdConnection, EtcdLogin, EtcdMembers, EtcdRefusedError, TlsFiles
from dtr.ucp.etcd import component as module
from dtr.ucp.etcd.component import EtcdComponent, EtcdDataError, EtcdReport
from dtr.ucp.etcd.users import EtcdUsers
from dtr.ucp.keyring import OF_MANAGERS, Realm, etcd_trust, first_keyring, issue
from dtr.ucp.model import (
    EtcdWanted,
    KeyPair,
    Node,
    NodeIdentity,
    NodeKeys,
    ProcessState,
    Wanted,
)

NODE = Node(id="node1", name="host1", host_address="127.0.0.1", fingerprint="00", joined_at=1)
IDENTITY = NodeIdentity(
    node_id="node1", name="host1", host_address="127.0.0.1", cluster_id="c", controllers=()
)
ETCD = EtcdWanted(
    name="node1",
    peer_url="https://10.0.0.1:2380",
    client_url="https://10.0.0.1:2379",
    initial_cluster="node1=https://10.0.0.1:2380",
    is_new_cluster=True,
    cluster_token="c",
)


@pytest.fixture
def directory() -> Iterator[NodeDirectory]:
    """Give a node's directory, where any user may enter, with a certificate."""
    with tempfile.TemporaryDirectory(prefix="ucp-") as place:
        root = Path(place)
        root.chmod(0o711)
        issued = TestAuthority(root / "issued").issue("node1")
        directory = NodeDirectory(root)
        for source, target in (
            (issued.ca, directory.ca),
            (issued.certificate, directory.certificate),
            (issued.key, directory.key),
        ):
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(source.read_bytes())
        yield directory


@pytest.fixture
def supervisor() -> RecordingSupervisor:
    """Return a supervisor that runs nothing."""
    return RecordingSupervisor()


@pytest.fixture
def component(directory: NodeDirectory, supervisor: RecordingSupervisor) -> EtcdComponent:
    """Return the component of a node."""
    return EtcdComponent(directory, IDENTITY, supervisor)


KEYS = issue(first_keyring("c", time.time()), NODE, OF_MANAGERS, time.time())


def wanted(
    etcd: EtcdWanted | None = ETCD, revision: int = 5, keys: NodeKeys | None = None
) -> Wanted:
    """Return what the node is wanted to run."""
    return Wanted(
        revision=revision,
        cluster_id="c",
        node=NODE,
        controllers=(),
        etcd_urls=(),
        etcd=etcd,
        keys=keys,
    )


async def reported(component: EtcdComponent) -> EtcdReport:
    """Return what it tells."""
    return EtcdReport.model_validate(await component.report())


def make_data(directory: NodeDirectory) -> Path:
    """Do as if etcd had begun."""
    data = directory.of("etcd") / "data" / "member"
    data.mkdir()
    return data


def flags_of(supervisor: RecordingSupervisor) -> dict[str, str]:
    """Return the flags with which etcd is run."""
    command = supervisor.processes["etcd"].command
    return dict(part.removeprefix("--").split("=", 1) for part in command[1:])


async def test_a_member_is_run_with_mutual_tls(
    directory: NodeDirectory, component: EtcdComponent, supervisor: RecordingSupervisor
) -> None:
    """Its files are for it alone, and no secret is in its command."""
    await component.converge(wanted())
    flags = flags_of(supervisor)
    assert flags["name"] == "node1"
    assert flags["listen-client-urls"] == "https://10.0.0.1:2379,https://127.0.0.1:2379"
    assert flags["initial-cluster-state"] == "new"
    assert "client-cert-auth" not in flags
    place = directory.of("etcd")
    assert flags["trusted-ca-file"] == str(place / "tls" / "server-ca.crt")
    assert flags["peer-trusted-ca-file"] == str(place / "tls" / "peer-ca.crt")
    assert place.stat().st_mode & 0o777 == 0o700
    assert (place / "data").stat().st_mode & 0o777 == 0o700
    assert (place / "tls" / "peer.key").stat().st_mode & 0o777 == 0o600
    await component.converge(wanted())
    assert supervisor.calls == ["start etcd"]


async def test_what_a_member_begins_with_counts_until_it_has_data(
    directory: NodeDirectory, component: EtcdComponent, supervisor: RecordingSupervisor
) -> None:
    """Before, a change restarts it; after, etcd knows better."""
    await component.converge(wanted())
    more: Any = {"initial_cluster": "node1=https://10.0.0.1:2380,node2=https://10.0.0.2:2380"}
    await component.converge(wanted(ETCD.changed(**more, is_new_cluster=False)))
    assert supervisor.calls == ["start etcd", "restart etcd"]
    make_data(directory)
    await component.converge(wanted())
    await component.converge(wanted(ETCD.changed(is_new_cluster=False)))
    assert supervisor.calls == ["start etcd", "restart etcd"]


async def test_a_member_without_its_data_is_not_started(
    directory: NodeDirectory, component: EtcdComponent, supervisor: RecordingSupervisor
) -> None:
    """It has promised what it does not know any more."""
    await component.converge(wanted())
    data = make_data(directory)
    await component.converge(wanted())
    data.rmdir()
    fresh = RecordingSupervisor()
    with pytest.raises(EtcdDataError, match="role 'worker'"):
        await EtcdComponent(directory, IDENTITY, fresh).converge(wanted())
    assert fresh.processes == {}


async def test_whom_it_trusts_restarts_and_another_certificate_does_not(
    directory: NodeDirectory, component: EtcdComponent, supervisor: RecordingSupervisor
) -> None:
    """Certificate and key are read at each handshake; the report tells when the rest was."""
    await component.converge(wanted(keys=KEYS))
    supervisor.set_ready("etcd")
    assert (await reported(component)).trust == etcd_trust(KEYS.authorities)
    others = {name: KeyPair(certificate="another", key="another") for name in KEYS.pairs}
    await component.converge(wanted(keys=KEYS.changed(pairs=others)))
    assert (directory.of("etcd") / "tls" / "peer.key").read_text() == "another"
    assert (directory.engine_keys / "controller.key").read_text() == "another"
    assert supervisor.calls == ["start etcd"]
    more = KEYS.changed(authorities={**KEYS.authorities, Realm.ETCD_PEERS: "both"})
    await component.converge(wanted(keys=more))
    assert supervisor.calls == ["start etcd", "restart etcd"]
    supervisor.set_ready("etcd")
    assert (await reported(component)).trust == etcd_trust(more.authorities)


async def test_the_nodes_key_is_not_etcds(
    directory: NodeDirectory, component: EtcdComponent
) -> None:
    """Whoever breaks out of etcd would be the node to every controller."""
    await component.converge(wanted(keys=KEYS))
    own = directory.key.read_text()
    files = [path for path in directory.of("etcd").rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert not any(own in path.read_text() for path in files)


async def test_a_member_that_is_wanted_no_more_leaves_nothing(
    directory: NodeDirectory, component: EtcdComponent, supervisor: RecordingSupervisor
) -> None:
    """And says so, which is what lets the node be a manager again."""
    await component.converge(wanted())
    make_data(directory)
    supervisor.set_ready("etcd")
    assert EtcdReport.model_validate(await component.report()) == EtcdReport(
        name="node1", is_ready=True, has_data=True
    )
    for _ in range(2):
        await component.converge(wanted(None))
    assert supervisor.calls == ["start etcd", "remove etcd"]
    assert not directory.of("etcd").exists()
    assert EtcdReport.model_validate(await component.report()) == EtcdReport()
    await component.converge(wanted())
    assert supervisor.calls[-1] == "start etcd"


async def test_what_is_older_than_a_member_does_not_delete_it(
    directory: NodeDirectory, component: EtcdComponent, supervisor: RecordingSupervisor
) -> None:
    """A node that was a worker when its file was last written may be a voter by now."""
    await component.converge(wanted(revision=7))
    data = make_data(directory)
    await component.converge(wanted(revision=8))
    again = EtcdComponent(directory, IDENTITY, supervisor)
    with pytest.raises(EtcdDataError, match="a controller answers"):
        await again.converge(wanted(None, revision=6))
    assert data.exists()
    assert supervisor.processes == {}
    await again.converge(wanted(revision=9))
    assert set(supervisor.processes) == {"etcd"}
    await again.converge(wanted(None, revision=3).changed(epoch=1))
    assert not directory.of("etcd").exists()


async def test_the_agents_end_leaves_the_data(
    directory: NodeDirectory, component: EtcdComponent, supervisor: RecordingSupervisor
) -> None:
    """The next agent goes on with them."""
    await component.converge(wanted())
    data = make_data(directory)
    await component.stop()
    assert supervisor.processes == {}
    assert data.exists()


@pytest.mark.etcd
async def test_a_real_member_gets_ready_and_asks_who(
    directory: NodeDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its own system user where the agent is root; again after the agent was started anew."""
    requires("etcd")
    client, peer = (f"https://127.0.0.1:{free_port()}" for _ in range(2))
    monkeypatch.setattr(module, "METRICS_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(module, "_LOCAL_URL", client)
    etcd = ETCD.changed(client_url=client, peer_url=peer, initial_cluster=f"node1={peer}")
    for _ in range(2):
        supervisor = ProcessSupervisor(directory)
        component = EtcdComponent(directory, IDENTITY, supervisor)

        async def is_ready(supervisor: ProcessSupervisor = supervisor) -> bool:
            return supervisor.report("etcd").state is ProcessState.READY

        try:
            await component.converge(wanted(etcd))
            await until(is_ready, "etcd is ready")
            await component.converge(wanted(etcd))
            assert supervisor.report("etcd").restarts == 0
            tls = TlsFiles(directory.ca, directory.certificate, directory.key)
            connection = EtcdConnection([client], tls, limits=LIMITS)
            await EtcdUsers(connection).enable_authentication("secret")
            connection.use_login(EtcdLogin("wrong"))
            with pytest.raises(EtcdRefusedError):
                await EtcdMembers(connection).list()
            connection.use_login(EtcdLogin("secret"))
            assert [each.name for each in await EtcdMembers(connection).list()] == ["node1"]
            await connection.close()
        finally:
            await component.stop()
