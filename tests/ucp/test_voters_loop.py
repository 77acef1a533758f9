"""The voters' loop: what it makes of reports and members, and that it acts only while it leads."""

from dataclasses import replace

import pytest

from dtr.model.errors import UnavailableError
from dtr.testing.store import MemoryStore
from dtr.ucp import keys
from dtr.ucp.etcd import EtcdMember, EtcdRefusedError
from dtr.ucp.etcd.component import EtcdReport
from dtr.ucp.etcd.members import EtcdStatus
from dtr.ucp.model import Document, Manager, ManagerPhase, Node, NodeReport, Role, Service
from dtr.ucp.plan import LEARNER_SECONDS, PATIENCE_SECONDS, SILENT_SECONDS
from dtr.ucp.store import Delete, FencedStore, Leadership, Put
from dtr.ucp.voters import VotersLoop, peer_url

NOW = 1_000_000.0


class FakeMembers:
    """Members in memory; those in `answering` answer."""

    def __init__(self) -> None:
        self.members: dict[str, EtcdMember] = {}
        self.answering: set[str] = set()
        self.calls: list[str] = []
        self.refusal = ""
        self.leader = "1"

    async def list(self) -> tuple[EtcdMember, ...]:
        """Return all members."""
        return tuple(self.members.values())

    async def status(self, client_url: str) -> EtcdStatus | None:
        """Answer for a member."""
        found = [each for each in self.members.values() if each.client_url == client_url]
        if not found or found[0].id not in self.answering:
            return None
        return EtcdStatus(found[0].id, self.leader, found[0].is_learner, "3.4.23", 0)

    async def add_learner(self, peer_url: str) -> EtcdMember:
        """Add a member."""
        self.call("add")
        identifier = f"{len(self.calls) + 10:x}"
        member = EtcdMember(identifier, "", peer_url, "", is_learner=True)
        self.members[identifier] = member
        return member

    async def promote(self, member_id: str) -> None:
        """Let a learner vote."""
        self.call("promote")
        self.members[member_id] = replace(self.members[member_id], is_learner=False)

    async def remove(self, member_id: str) -> None:
        """Remove a member."""
        self.call("remove")
        del self.members[member_id]

    async def move_leadership(self, leader_url: str, member_id: str) -> None:
        """Have another member lead."""
        self.call("move")
        assert leader_url == self.members[self.leader].client_url
        self.leader = member_id

    def call(self, name: str) -> None:
        """Remember a change, or refuse it."""
        if self.refusal:
            raise EtcdRefusedError(self.refusal, reason=self.refusal)
        self.calls.append(name)

    def begin(self, name: str) -> None:
        """Do as if a node had started the member that has no name."""
        member = next(each for each in self.members.values() if not each.name)
        url = member.peer_url.replace("2380", "2379")
        self.members[member.id] = replace(member, name=name, client_url=url)
        self.answering.add(member.id)


class World:
    """A store with nodes, members and a clock."""

    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.members = FakeMembers()
        self.elapsed = 0.0
        self.skew = 0.0
        self.loop = VotersLoop(self.members, monotonic=lambda: self.elapsed)
        self.store = FencedStore(self.memory, Leadership(keys.LEADER, 2))

    async def begin(self) -> None:
        """Make the first manager."""
        await self.memory.commit([Put(keys.LEADER, b"{}")])
        node = await self.join(1)
        self.members.members["1"] = EtcdMember(
            "1", node.id, peer_url(node), "https://10.0.0.1:2379", is_learner=False
        )
        self.members.answering.add("1")
        manager = Manager(
            node_id=node.id,
            member_id="1",
            peer_url=peer_url(node),
            phase=ManagerPhase.VOTER,
            initial_cluster="x",
        )
        await self.put(keys.manager(node.id), manager)

    async def join(self, number: int, role: Role = Role.AUTO) -> Node:
        """Add a node."""
        node = Node(
            id=f"n{number}",
            name=f"host{number}",
            host_address=f"10.0.0.{number}",
            role=role,
            fingerprint="00",
            joined_at=NOW + self.elapsed,
        )
        await self.put(keys.node(node.id), node)
        return node

    async def put(self, key: str, document: Document) -> None:
        """Write a document."""
        await self.memory.commit([Put(key, document.encoded())])

    async def report(self, number: int, *, revision: int = 0, has_data: bool = False) -> None:
        """Report as a node's agent does, by a controller whose clock may be wrong."""
        report = NodeReport(
            node_id=f"n{number}",
            at=0,
            received_at=NOW + self.elapsed + self.skew,
            version="",
            revision=revision,
            services={"etcd": EtcdReport(has_data=has_data).model_dump(mode="json")},
        )
        await self.put(keys.report(f"n{number}"), report)

    async def manager(self, number: int) -> Manager | None:
        """Return a node's record."""
        entry = await self.memory.get(keys.manager(f"n{number}"))
        return entry.document(Manager) if entry else None

    async def cycle(self) -> str:
        """Do one cycle."""
        return await self.loop.cycle(self.store, NOW + self.elapsed)


@pytest.fixture
async def world() -> World:
    """Return a control plane of one manager."""
    world = World()
    await world.begin()
    return world


async def test_three_nodes_become_three_voters(world: World) -> None:
    """Step by step, each recorded for the agents."""
    for number in (2, 3):
        await world.join(number)
    for number in (2, 3):
        assert await world.cycle() == f"host{number} is to be a voter"
        await world.cycle()
        learner = await world.manager(number)
        assert learner is not None
        assert learner.phase is ManagerPhase.LEARNER
        assert f"n{number}=https://10.0.0.{number}:2380" in learner.initial_cluster
        assert await world.cycle() == f"waits for etcd on host{number} to answer"
        world.members.begin(f"n{number}")
        assert await world.cycle() == f"host{number} becomes a voter"
        await world.cycle()
        voter = await world.manager(number)
        assert voter is not None
        assert voter.phase is ManagerPhase.VOTER
    assert await world.cycle() == "3 voters, as it should be"


async def test_what_etcd_refuses_is_a_reason_and_no_error(world: World) -> None:
    """It is tried again in the next cycle."""
    await world.join(2)
    await world.join(3)
    world.members.refusal = "etcdserver: unhealthy cluster"
    assert "does not want that yet: etcdserver: unhealthy" in await world.cycle()
    world.members.refusal = ""
    await world.cycle()
    assert world.members.calls == ["add"]


async def test_who_leads_no_more_does_nothing(world: World) -> None:
    """Neither with members, which know no conditions, nor with records."""
    await world.join(2)
    await world.join(3)
    await world.memory.commit([Delete(keys.LEADER)])
    assert "changed meanwhile" in await world.cycle()
    assert world.members.calls == []


async def test_a_node_is_there_as_long_as_its_report_changes(world: World) -> None:
    """Whatever the clock of the controller that wrote it says."""
    world.skew = -3600
    for number in (2, 3):
        await world.join(number)
        await world.report(number)
    await world.cycle()
    world.elapsed += 2
    for number in (2, 3):
        await world.report(number)
    assert await world.cycle() == "host2 is to be a voter"
    world.members.members.popitem()
    world.elapsed += SILENT_SECONDS + 1
    assert "to report" in await world.cycle()


async def test_time_is_measured_and_not_read_off_the_clock(world: World) -> None:
    """A clock that jumps makes nobody silent."""
    for number in (2, 3):
        await world.join(number)
        await world.report(number)
    await world.cycle()
    world.elapsed += 1
    for number in (2, 3):
        await world.report(number)
    await world.cycle()
    decided = await world.loop.cycle(world.store, NOW + 7200)
    assert decided == "waits for etcd on host2 to answer"


async def test_nodes_that_host_replicas_come_first(world: World) -> None:
    """Not those that host something else."""
    for number in (2, 3, 4, 5):
        await world.join(number)
    for number, name in ((2, "balancer"), (4, "replica"), (5, "replica")):
        service = Service(name=name, node_id=f"n{number}", specification=None)
        await world.put(keys.service(f"n{number}", name), service)
    assert await world.cycle() == "host4 is to be a voter"


async def test_a_silent_etcd_on_a_node_that_reports_is_given_up_for_an_hour(world: World) -> None:
    """A wall between them, most likely; others are tried."""
    for number in (2, 3, 4):
        await world.join(number)
    await world.cycle()
    await world.cycle()
    for _ in range(2):
        await world.cycle()
        world.elapsed += LEARNER_SECONDS / 2 + 1
        for number in (2, 3, 4):
            await world.report(number, has_data=True)
    assert await world.cycle() == "etcd on host2 does not answer, and is given up"
    await world.cycle()
    left = await world.manager(2)
    assert left is not None
    assert left.phase is ManagerPhase.LEAVING
    assert await world.cycle() == "host3 is to be a voter"


async def test_a_node_that_left_is_forgotten_once_nothing_is_left_there(world: World) -> None:
    """By its own word, given after it knew."""
    for number in (2, 3):
        await world.join(number)
    for number in (2, 3):
        for _ in range(2):
            await world.cycle()
        world.members.begin(f"n{number}")
        for _ in range(2):
            await world.cycle()
    await world.join(2, Role.WORKER)
    for _ in range(4):
        await world.cycle()
    assert set(world.members.members) == {"1"}
    await world.report(2, revision=world.memory.revision, has_data=True)
    await world.cycle()
    assert await world.manager(2) is not None
    await world.report(2, revision=world.memory.revision, has_data=False)
    await world.cycle()
    assert await world.manager(2) is None


async def test_a_lost_voter_is_replaced_after_measured_minutes(world: World) -> None:
    """As long as another is there for it."""
    for number in (2, 3, 4):
        await world.join(number)
    for number in (2, 3):
        for _ in range(2):
            await world.cycle()
        world.members.begin(f"n{number}")
        for _ in range(2):
            await world.cycle()
    lost = next(each.id for each in world.members.members.values() if each.name == "n2")
    world.members.answering.discard(lost)
    await world.cycle()
    world.elapsed += PATIENCE_SECONDS - 1
    await world.report(4)
    assert "does not answer on host2" in await world.cycle()
    world.elapsed += 2
    await world.report(4)
    assert await world.cycle() == "host2 is a voter no more"
    assert lost not in world.members.members


async def _three_voters_of_which_the_first_goes(world: World) -> None:
    for number in (2, 3):
        await world.join(number)
    for number in (2, 3):
        for _ in range(2):
            await world.cycle()
        world.members.begin(f"n{number}")
        for _ in range(2):
            await world.cycle()
    await world.memory.commit([Delete(keys.node("n1"))])
    world.members.calls.clear()


async def test_who_leads_etcd_hands_that_on_before_it_is_removed(world: World) -> None:
    """At the member that leads, which alone can do it."""
    await _three_voters_of_which_the_first_goes(world)
    assert await world.cycle() == "host2 leads etcd instead of the removed node of member 1"
    await world.cycle()
    assert world.members.calls[:2] == ["move", "remove"]
    assert "1" not in world.members.members


async def test_a_lead_that_cannot_be_moved_holds_nothing_up(world: World) -> None:
    """It is tried once, and the member is removed."""
    await _three_voters_of_which_the_first_goes(world)
    world.members.refusal = "etcdserver: request timed out, leader transfer took too long"
    assert "took too long" in await world.cycle()
    world.members.refusal = ""
    await world.cycle()
    assert world.members.calls[0] == "remove"


async def test_without_a_store_a_cycle_ends_with_an_error(world: World) -> None:
    """Which the leader knows."""
    world.memory.is_available = False
    with pytest.raises(UnavailableError):
        await world.cycle()
