"""One of several etcd members is made the only one: by order only, once, and whatever dies."""

import asyncio
import os
import pwd
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support.etcd import LIMITS, RunningEtcd, TestAuthority
from tests.support.processes import free_port, wait_until

from dtr.model.errors import UnavailableError
from dtr.testing.store import MemoryStore
from dtr.testing.stores import until
from dtr.testing.supervisor import RecordingSupervisor
from dtr.ucp import keys
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.agent.supervisor import ProcessSupervisor
from dtr.ucp.etcd import (
    EtcdConnection,
    EtcdLogin,
    EtcdMember,
    EtcdMembers,
    EtcdRefusedError,
    EtcdStore,
    TlsFiles,
)
from dtr.ucp.etcd import component as module
from dtr.ucp.etcd.component import EtcdComponent, EtcdDataError
from dtr.ucp.etcd.users import EtcdUsers
from dtr.ucp.model import (
    ClusterRecord,
    ControllerWanted,
    EtcdWanted,
    Manager,
    ManagerPhase,
    Node,
    NodeIdentity,
    Wanted,
)
from dtr.ucp.repair import (
    Repair,
    RepairError,
    copy_aside,
    go_on_alone,
    managers_besides,
    read_repair,
    repair_of,
    write_repair,
)
from dtr.ucp.store import Put

NOW = 1_800_000_000.0
PASSWORD = "the password of root"
FORCED = "--force-new-cluster"


def node(number: int) -> Node:
    """Return a machine."""
    return Node(
        id=f"m{number}",
        name=f"host{number}",
        host_address=f"127.0.0.{number}",
        fingerprint="00",
        joined_at=1,
    )


def etcd_of(client_url: str, peer_url: str) -> EtcdWanted:
    """Return the member of the third machine."""
    return EtcdWanted(
        name="m3",
        peer_url=peer_url,
        client_url=client_url,
        initial_cluster=f"m3={peer_url}",
        is_new_cluster=False,
        cluster_token="c",
    )


def wanted_with(etcd: EtcdWanted | None, revision: int = 5) -> Wanted:
    """Return what the third of three managers is wanted to run."""
    return Wanted(
        revision=revision,
        epoch=3,
        cluster_id="c",
        node=node(3),
        controllers=tuple(f"127.0.0.{number}:8443" for number in (1, 2, 3)),
        etcd_urls=tuple(f"https://127.0.0.{number}:2379" for number in (1, 2, 3)),
        etcd=etcd,
        controller=ControllerWanted(ca_key="", etcd_password=PASSWORD),
    )


WANTED = wanted_with(etcd_of("https://127.0.0.3:2379", "https://127.0.0.3:2380"))


async def fill(store: EtcdStore | MemoryStore) -> None:
    """Write the records of three managers."""
    documents: dict[str, Any] = {
        keys.CLUSTER: ClusterRecord(id="c", created_at=1, ca_certificate="", version="", epoch=3)
    }
    for number in (1, 2, 3):
        machine = node(number)
        documents[keys.node(machine.id)] = machine
        documents[keys.manager(machine.id)] = Manager(
            node_id=machine.id, peer_url=f"https://{number}:2380", phase=ManagerPhase.VOTER
        )
    puts = [Put(key, each.encoded()) for key, each in documents.items()]
    more = (keys.service("m1", "replica"), keys.report("m2"), keys.service("m3", "replica"), "/x")
    await store.commit([*puts, *(Put(key, b"{}") for key in more)])


async def keys_in(store: EtcdStore | MemoryStore) -> set[str]:
    """Return all keys."""
    entries, _ = await store.list("")
    return {entry.key for entry in entries}


AFTER = {keys.CLUSTER, "/ucp/nodes/m3", "/ucp/managers/m3", "/ucp/services/m3/replica", "/x"}


@pytest.fixture
def directory() -> Iterator[NodeDirectory]:
    """Give the directory of the third machine, where any user may enter."""
    with tempfile.TemporaryDirectory(prefix="ucp-") as place:
        root = Path(place)
        root.chmod(0o711)
        give_certificate(NodeDirectory(root), TestAuthority(root / "issued"))
        yield NodeDirectory(root)


def give_certificate(directory: NodeDirectory, authority: TestAuthority) -> None:
    """Make a directory a node's."""
    issued = authority.issue("m3", "127.0.0.3")
    for source, target in (
        (issued.ca, directory.ca),
        (issued.certificate, directory.certificate),
        (issued.key, directory.key),
    ):
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())


def component_of(
    directory: NodeDirectory, supervisor: RecordingSupervisor | ProcessSupervisor
) -> EtcdComponent:
    """Return the component of an agent that has just begun."""
    identity = NodeIdentity(
        node_id="m3",
        name="host3",
        host_address="127.0.0.3",
        cluster_id="c",
        controllers=(),
        users={"etcd": pwd.getpwuid(os.geteuid()).pw_name},
    )
    return EtcdComponent(directory, identity, supervisor, clock=lambda: NOW)


class Engine:
    """An etcd that is not there: whether it is healthy, its members, and what it holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_healthy = False
        self.names = ["m3"]
        self.store = MemoryStore()

        async def is_healthy(_url: str, _tls: TlsFiles) -> bool:
            return self.is_healthy

        monkeypatch.setattr(module, "is_healthy", is_healthy)
        monkeypatch.setattr(module, "EtcdStore", lambda _connection: self.store)
        monkeypatch.setattr(module, "EtcdMembers", lambda _connection: self)

    async def list(self) -> tuple[EtcdMember, ...]:
        """Return the members."""
        return tuple(EtcdMember(name, name, "", "", is_learner=False) for name in self.names)


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Give an etcd that has lost its majority."""
    engine = Engine(monkeypatch)
    await fill(engine.store)
    return engine


@pytest.fixture
def supervisor() -> RecordingSupervisor:
    """Return a supervisor that runs nothing."""
    return RecordingSupervisor()


async def run_member(directory: NodeDirectory, supervisor: RecordingSupervisor) -> EtcdComponent:
    """Return a component whose member has run for a while."""
    component = component_of(directory, supervisor)
    await component.converge(WANTED)
    (directory.of("etcd") / "data" / "member").mkdir()
    (directory.of("etcd") / "data" / "member" / "wal").write_text("what it knows")
    await component.converge(WANTED)
    return component


def ask(directory: NodeDirectory, at: float = NOW) -> Repair:
    """Do what the command does."""
    repair = repair_of(WANTED, ("127.0.0.1", "127.0.0.2"), at)
    write_repair(directory, repair)
    return repair


def is_forced(supervisor: RecordingSupervisor) -> bool:
    """Return whether etcd is run alone; then nobody else can speak to it."""
    command = supervisor.processes["etcd"].command
    listened = next(word for word in command if word.startswith("--listen-client-urls="))
    assert ("127.0.0.3" in listened) is (FORCED not in command)
    return FORCED in command


async def test_a_member_is_made_the_only_one_and_runs_as_ever_after_that(
    directory: NodeDirectory, supervisor: RecordingSupervisor, engine: Engine
) -> None:
    """Its data are copied while it does not run; the lost ones are no nodes any more."""
    component = await run_member(directory, supervisor)
    repair = ask(directory)
    await component.converge(WANTED)
    copy = repair.copy_in(directory)
    assert (copy / "data" / "member" / "wal").read_text() == "what it knows"
    assert copy.stat().st_mode & 0o777 == 0o700
    assert supervisor.calls == ["start etcd", "remove etcd", "start etcd"]
    assert is_forced(supervisor)
    await component.converge(WANTED)
    assert "/ucp/nodes/m1" in await keys_in(engine.store)
    supervisor.set_ready("etcd")
    await component.converge(WANTED)
    assert not is_forced(supervisor)
    assert supervisor.calls[3:] == ["restart etcd"]
    assert read_repair(directory) is None
    assert await keys_in(engine.store) == AFTER
    found = await engine.store.get(keys.CLUSTER)
    assert found is not None
    assert found.document(ClusterRecord).epoch == repair.epoch == int(NOW)
    engine.is_healthy = True
    for _ in range(2):
        await component.converge(WANTED)
    assert supervisor.calls[4:] == []


async def test_an_agent_that_dies_at_any_step_goes_on(
    directory: NodeDirectory, engine: Engine
) -> None:
    """Each agent does one step only, and the last that is needed ends it."""
    await run_member(directory, RecordingSupervisor())
    repair = ask(directory)
    unfinished = repair.copy_in(directory).with_name(repair.copy_in(directory).name + ".tmp")
    unfinished.mkdir()
    (unfinished / "rest").touch()
    for _ in range(2):
        dying = RecordingSupervisor()
        await component_of(directory, dying).converge(WANTED)
        assert is_forced(dying)
    assert not unfinished.exists()
    engine.names = []
    lying = RecordingSupervisor(is_ready_at_once=True)
    with pytest.raises(EtcdDataError, match="lists 0"):
        await component_of(directory, lying).converge(WANTED)
    engine.names = ["m3"]
    await go_on_alone(engine.store, repair, "m3")  # and died before it deleted the file
    last = RecordingSupervisor(is_ready_at_once=True)
    await component_of(directory, last).converge(WANTED)
    assert not is_forced(last)
    assert await keys_in(engine.store) == AFTER


async def test_nothing_is_forced_that_nobody_wants_any_more(
    directory: NodeDirectory, supervisor: RecordingSupervisor, engine: Engine
) -> None:
    """The majority is back, or it was asked long ago, or this is no manager."""
    component = await run_member(directory, supervisor)
    before = await keys_in(engine.store)
    ask(directory, at=NOW - 3600)
    await component.converge(WANTED)
    assert read_repair(directory) is None
    ask(directory)
    await component.converge(WANTED.changed(controller=None))
    assert read_repair(directory) is None
    engine.is_healthy = True
    repair = ask(directory)
    await component.converge(WANTED)
    assert read_repair(directory) is None
    assert not repair.copy_in(directory).exists()
    assert supervisor.calls == ["start etcd"]
    assert await keys_in(engine.store) == before
    ask(directory)
    await component.converge(wanted_with(None, revision=9))
    assert read_repair(directory) is None


async def test_a_disk_without_room_for_the_copy_hinders_the_repair(
    directory: NodeDirectory,
    supervisor: RecordingSupervisor,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And nothing else than a whole copy has its name."""
    component = await run_member(directory, supervisor)
    repair = ask(directory)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copy2", full)
        with pytest.raises(OSError, match="No space left"):
            await component.converge(WANTED)
    assert "etcd" not in supervisor.processes
    assert [path.name for path in directory.root.glob("etcd-before-repair-*")] == []
    await component.converge(WANTED)
    assert is_forced(supervisor)
    assert repair.is_begun(directory)
    assert not engine.is_healthy


async def test_a_greater_epoch_than_the_clocks_is_raised_all_the_same() -> None:
    """A clock that was set back makes no smaller one."""
    store = MemoryStore()
    await fill(store)
    repair = Repair(asked_at=2, epoch=2, lost=())
    await go_on_alone(store, repair, "m3")
    found = await store.get(keys.CLUSTER)
    assert found is not None
    assert found.document(ClusterRecord).epoch == 4
    with pytest.raises(RepairError, match="ucp restore"):
        await go_on_alone(MemoryStore(), repair, "m3")


def test_links_in_the_members_directory_are_not_followed(tmp_path: Path) -> None:
    """That directory belongs to etcd's user, and the agent is root."""
    (tmp_path / "secret").write_text("root's")
    data = tmp_path / "data"
    data.mkdir()
    (data / "link").symlink_to(tmp_path / "secret")
    copy_aside(data, tmp_path / "copy")
    assert (tmp_path / "copy" / "data" / "link").is_symlink()


def test_the_other_managers_are_known_by_address() -> None:
    """With the ports of their controllers and etcds."""
    assert managers_besides(WANTED) == {"127.0.0.1": (8443, 2379), "127.0.0.2": (8443, 2379)}
    six = WANTED.changed(controllers=("[fd00::1]:8443",), etcd_urls=("https://[fd00::2]:2379",))
    assert managers_besides(six) == {"fd00::1": (8443,), "fd00::2": (2379,)}


class LoneMember:
    """The third of three real members, whose machine's agent has taken it over."""

    def __init__(self, etcd: RunningEtcd, directory: NodeDirectory) -> None:
        self.etcd = etcd
        self.directory = directory
        member = etcd.members[2]
        self.url = member.client_url
        self.wanted = wanted_with(etcd_of(member.client_url, member.peer_url))
        self.supervisor = ProcessSupervisor(directory)
        self.component = component_of(directory, self.supervisor)

    def take_over(self) -> None:
        """Give the data of the member, which has ended, to the component."""
        place = self.directory.of("etcd")
        place.mkdir(mode=0o700)
        shutil.copytree(self.etcd.members[2].directory / "data", place / "data")
        give_certificate(self.directory, self.etcd.authority)

    async def kill_agent(self) -> None:
        """Let an agent die, and another begin."""
        await self.component.stop()
        self.supervisor = ProcessSupervisor(self.directory)
        self.component = component_of(self.directory, self.supervisor)


@pytest.fixture
async def lone(
    directory: NodeDirectory, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LoneMember]:
    """Give what is left of three members: one, whose agent runs."""
    with RunningEtcd(members=3) as etcd:
        lone = LoneMember(etcd, directory)
        monkeypatch.setattr(module, "METRICS_URL", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setattr(module, "_LOCAL_URL", f"https://127.0.0.1:{free_port()}")
        try:
            yield lone
        finally:
            await lone.component.stop()


@pytest.mark.etcd
async def test_a_real_member_goes_on_alone_with_all_that_it_knew(lone: LoneMember) -> None:
    """With authentication; agents die meanwhile; lost members that return change nothing."""
    etcd = lone.etcd
    connection = etcd.connection(EtcdLogin(PASSWORD))
    await EtcdUsers(connection).enable_authentication(PASSWORD)
    await fill(EtcdStore(connection))
    connection.use_endpoints([lone.url])
    await keys_in(EtcdStore(connection))  # what it has not heard of when the others die, is lost
    await connection.close()
    for member in etcd.members[:2]:
        member.kill()
    etcd.members[2].stop()
    lone.take_over()
    connection = EtcdConnection([lone.url], etcd.client_tls, EtcdLogin(PASSWORD), LIMITS)
    store = EtcdStore(connection)
    await lone.component.converge(lone.wanted)
    repair = repair_of(lone.wanted, ("127.0.0.1", "127.0.0.2"), NOW)
    write_repair(lone.directory, repair)
    await lone.component.converge(lone.wanted)
    assert repair.is_begun(lone.directory)
    await lone.kill_agent()

    async def is_repaired() -> bool:
        with suppress(UnavailableError):
            await lone.component.converge(lone.wanted)
        return read_repair(lone.directory) is None

    await until(is_repaired, "the repair is done")
    await lone.kill_agent()
    await lone.component.converge(lone.wanted)
    assert [each.name for each in await EtcdMembers(connection).list()] == ["m3"]
    assert await keys_in(store) == AFTER
    stranger = EtcdConnection([lone.url], etcd.client_tls, EtcdLogin("wrong"), LIMITS)
    with pytest.raises(EtcdRefusedError):
        await EtcdStore(stranger).get("/x")
    await stranger.close()
    for member in etcd.members[:2]:
        member.start(wait=False)
    # Told by the survivor that they are members no more, they end by themselves.
    await asyncio.to_thread(
        wait_until,
        lambda: not any(member.is_running for member in etcd.members[:2]),
        "the members that returned have ended",
        seconds=60,
    )
    await store.commit([Put("/y", str(time.time()).encode())])
    assert [each.name for each in await EtcdMembers(connection).list()] == ["m3"]
    assert await keys_in(store) == {*AFTER, "/y"}
    await store.close()
