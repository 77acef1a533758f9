"""Voters on real etcd members: machines come, die, are demoted, and the store goes on."""

import asyncio
import random
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.support.etcd import LIMITS, EtcdProcess, TestAuthority
from tests.support.processes import requires

from dtr.model.errors import UnavailableError
from dtr.ucp import keys
from dtr.ucp.etcd import EtcdConnection, EtcdLogin, EtcdMembers, EtcdStore
from dtr.ucp.etcd.component import EtcdReport
from dtr.ucp.etcd.users import EtcdUsers
from dtr.ucp.leading import Leader, LeadingSettings
from dtr.ucp.model import (
    ETCD_CLIENT_PORT,
    ETCD_PEER_PORT,
    ClusterRecord,
    ControlSecrets,
    Document,
    Manager,
    ManagerPhase,
    Node,
    NodeReport,
    Role,
)
from dtr.ucp.plan import PATIENCE_SECONDS
from dtr.ucp.store import Delete, Put
from dtr.ucp.voters import VotersLoop, peer_url
from dtr.ucp.wanted import wanted_of

pytestmark = pytest.mark.etcd

PASSWORD = "the password of root"
SETTINGS = LeadingSettings(lease_seconds=20, renewal_seconds=2, pause_seconds=0.3)


class Witness(EtcdMembers):
    """The members; it remembers who was removed while it led."""

    def __init__(self, connection: EtcdConnection) -> None:
        super().__init__(connection)
        self.removed_leading: list[str] = []

    async def leader(self) -> str:
        """Return the name of who leads."""
        found = await self.list()
        for each in found:
            status = await self.status(each.client_url) if each.client_url else None
            if status is not None and status.leader_id == each.id:
                return each.name
        return ""

    async def remove(self, member_id: str) -> None:
        """Remove a member."""
        leader = await self.leader()
        name = next((each.name for each in await self.list() if each.id == member_id), "")
        if name == leader:
            self.removed_leading.append(name)
        await super().remove(member_id)


class Machines:
    """Machines on loopback addresses, whose agents run etcd as they are told."""

    def __init__(self, directory: Path) -> None:
        requires("etcd")
        self.directory = directory
        self.authority = TestAuthority(directory / "pki")
        self.network = f"127.{random.randint(20, 250)}.{random.randint(1, 250)}"
        self.processes: dict[str, EtcdProcess] = {}
        self.dead: set[str] = set()
        self.lead = 0.0
        self.connection = EtcdConnection(
            [self.url(1)], self.authority.issue("client"), EtcdLogin(PASSWORD), LIMITS
        )
        self.store = EtcdStore(self.connection)
        self.members = Witness(self.connection)
        self.loop = VotersLoop(self.members, monotonic=self.monotonic)

    def monotonic(self) -> float:
        """Return a time that a test can let pass."""
        return time.monotonic() + self.lead

    def url(self, number: int) -> str:
        """Return where a machine's etcd is asked."""
        return f"https://{self.network}.{number}:{ETCD_CLIENT_PORT}"

    def prepare(self, number: int) -> Node:
        """Add a machine, with its certificate."""
        node = Node(
            id=f"n{number}",
            name=f"host{number}",
            host_address=f"{self.network}.{number}",
            fingerprint="00",
            joined_at=time.time(),
        )
        self.processes[node.id] = EtcdProcess(
            self.directory,
            self.authority,
            node.id,
            node.host_address,
            (ETCD_CLIENT_PORT, ETCD_PEER_PORT),
        )
        return node

    async def install(self) -> None:
        """Begin a control plane on the first machine."""
        node = self.prepare(1)
        await asyncio.to_thread(self.processes[node.id].start, is_new=True)
        await EtcdUsers(self.connection).enable_authentication(PASSWORD)
        manager = Manager(
            node_id=node.id,
            peer_url=peer_url(node),
            phase=ManagerPhase.VOTER,
            initial_cluster=f"{node.id}={peer_url(node)}",
            is_new_cluster=True,
        )
        documents: dict[str, Document] = {
            keys.CLUSTER: ClusterRecord(id="c", created_at=1, ca_certificate="", version=""),
            keys.CONTROL_SECRETS: ControlSecrets(ca_key="", etcd_password=PASSWORD),
            keys.node(node.id): node,
            keys.manager(node.id): manager,
        }
        await self.store.commit([Put(key, each.encoded()) for key, each in documents.items()])

    async def join(self, number: int) -> None:
        """Add a node."""
        node = self.prepare(number)
        await self.store.commit([Put(keys.node(node.id), node.encoded())])

    async def say_role(self, number: int, role: Role) -> None:
        """Say what a node is to be."""
        entry = await self.store.get(keys.node(f"n{number}"))
        assert entry is not None
        changed: Node = entry.document(Node).changed(role=role)
        await self.store.commit([Put(entry.key, changed.encoded())])

    async def run_agents(self) -> None:
        """Do once what the agents do all the time."""
        for name, process in self.processes.items():
            if name not in self.dead:
                await self._run_agent(name, process)

    async def _run_agent(self, name: str, process: EtcdProcess) -> None:
        wanted = await wanted_of(self.store, name)
        assert wanted is not None
        self.connection.use_endpoints(wanted.etcd_urls)
        if wanted.etcd is None:
            process.kill()
            shutil.rmtree(process.directory / "data", ignore_errors=True)
        elif not process.is_running:
            assert wanted.etcd.client_url == process.client_url
            assert wanted.etcd.peer_url == process.peer_url
            process.start(
                wanted.etcd.initial_cluster, is_new=wanted.etcd.is_new_cluster, wait=False
            )
        etcd = EtcdReport(name=name, has_data=(process.directory / "data").exists())
        report = NodeReport(
            node_id=name,
            at=time.time(),
            received_at=time.time(),
            version="",
            revision=wanted.revision,
            services={"etcd": etcd.model_dump(mode="json")},
        )
        await self.store.commit([Put(keys.report(name), report.encoded())])

    async def until(self, condition: Callable[[set[str]], bool], what: str) -> None:
        """Let everybody work until the voters' names are so, and the records say the same."""
        deadline = time.monotonic() + 120
        voters: set[str] = set()
        recorded: set[str] = set()
        while not condition(voters) or recorded != voters:
            assert time.monotonic() < deadline, f"{what}: {voters}, recorded {recorded}"
            try:
                await self.run_agents()
                members = await self.members.list()
                voters = {each.name for each in members if not each.is_learner}
                entries, _ = await self.store.list(keys.MANAGERS)
                managers = [each.document(Manager) for each in entries]
                recorded = {each.node_id for each in managers if each.phase is ManagerPhase.VOTER}
            except UnavailableError:
                continue
            await asyncio.sleep(0.2)

    def kill(self, number: int) -> None:
        """Kill a machine."""
        self.dead.add(f"n{number}")
        self.processes[f"n{number}"].kill()

    def kill_agent(self, number: int) -> None:
        """Have a machine's etcd run on without its agent."""
        self.dead.add(f"n{number}")

    def close(self) -> None:
        """Kill everything."""
        for process in self.processes.values():
            process.kill()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """Give a place for machines, and kill them in the end."""
    machines = Machines(tmp_path)
    yield machines
    machines.close()


@pytest.fixture
async def leader(machines: Machines) -> AsyncIterator[Leader]:
    """Give a leader that runs the loop, of a control plane of one machine."""
    await machines.install()
    leader = Leader(machines.store, "n1", [machines.loop], SETTINGS)
    running = asyncio.create_task(leader.run())
    yield leader
    running.cancel()
    await asyncio.wait([running])
    await machines.store.close()


async def test_voters_grow_are_replaced_and_shrink(machines: Machines, leader: Leader) -> None:
    """And what was written stays, while all of the first machines go."""
    await machines.store.commit([Put("/kept", b"1")])
    await machines.join(2)
    await machines.join(3)
    await machines.until(lambda voters: voters == {"n1", "n2", "n3"}, "three voters")
    await machines.join(4)
    machines.kill(2)
    await machines.run_agents()
    await asyncio.sleep(5)
    machines.lead += PATIENCE_SECONDS
    await machines.until(lambda voters: voters == {"n1", "n3", "n4"}, "n2 is replaced")
    await machines.say_role(1, Role.WORKER)
    machines.dead.discard("n2")
    await machines.until(lambda voters: voters == {"n2", "n3", "n4"}, "n2 takes the place of n1")
    await machines.say_role(4, Role.WORKER)
    await machines.until(lambda voters: len(voters) == 1, "one voter of two that may")
    kept = await machines.store.get("/kept")
    assert kept is not None
    assert kept.value == b"1"
    assert leader.is_leading
    assert machines.members.removed_leading == []


async def test_who_leads_etcd_hands_that_on_before_it_goes(
    machines: Machines, leader: Leader
) -> None:
    """The first, which has led from the beginning, is removed by `ucp node rm`."""
    for number in (2, 3):
        await machines.join(number)
    await machines.until(lambda voters: voters == {"n1", "n2", "n3"}, "three voters")
    if (await machines.members.leader()) != "n1":
        found = {each.name: each for each in await machines.members.list()}
        leading = found[await machines.members.leader()]
        await machines.members.move_leadership(leading.client_url, found["n1"].id)
    machines.kill_agent(1)
    await machines.store.commit([Delete(keys.node("n1"))])
    await machines.until(lambda voters: len(voters) == 1, "one of the two that are left")
    assert await machines.members.leader() in {"n2", "n3"}
    assert machines.members.removed_leading == []
    assert leader.is_leading
