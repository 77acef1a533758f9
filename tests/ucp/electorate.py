"""Machines, agents and an etcd of which only the membership is real: what plans are tried on."""

from dataclasses import dataclass, field

from dtr.ucp.model import Manager, ManagerPhase, Role
from dtr.ucp.plan import (
    Action,
    AddLearner,
    ForgetManager,
    MemberView,
    MoveLeadership,
    NodeView,
    Promote,
    RecordManager,
    RecordView,
    RemoveMember,
    VotersView,
)


def url_of(number: int) -> str:
    """Return a machine's peer URL."""
    return f"https://10.0.0.{number}:2380"


@dataclass
class Machine:
    """A machine with its agent."""

    id: str
    peer_url: str
    joined_at: float
    role: Role = Role.AUTO
    hosts_replica: bool = False
    is_known: bool = True
    """Whether it is a node; one that was removed goes on for a while."""
    is_on: bool = True
    can_run_etcd: bool = True
    data_of: str = ""
    """The id of the member whose data it has."""
    seen_at: float = 0
    revision: int = 0
    has_data: bool = True


@dataclass
class Member:
    """A member as etcd has it."""

    id: str
    peer_url: str
    is_learner: bool
    name: str = ""


class RefusedError(Exception):
    """The simulated etcd says no."""


@dataclass
class Electorate:
    """The whole of it; time passes when it is told."""

    now: float = 1_000_000.0
    machines: dict[str, Machine] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    records: dict[str, RecordView] = field(default_factory=dict)
    revision: int = 10
    down_since: dict[str, float] = field(default_factory=dict)
    given_up: dict[str, float] = field(default_factory=dict)
    chosen: str = ""
    """The member that was given the lead last."""

    def install(self) -> Machine:
        """Make the first machine, a voter."""
        machine = self.join()
        member = Member("a1", machine.peer_url, is_learner=False, name=machine.id)
        self.members[member.id] = member
        machine.data_of = member.id
        manager = Manager(
            node_id=machine.id,
            peer_url=machine.peer_url,
            phase=ManagerPhase.VOTER,
            initial_cluster=f"{machine.id}={machine.peer_url}",
            is_new_cluster=True,
        )
        self.records[machine.id] = RecordView(manager, self.next_revision())
        return machine

    def join(self, role: Role = Role.AUTO, *, hosts_replica: bool = False) -> Machine:
        """Add a machine."""
        number = len(self.machines) + 1
        machine = Machine(f"n{number}", url_of(number), self.now, role, hosts_replica)
        machine.seen_at = self.now
        self.machines[machine.id] = machine
        return machine

    def next_revision(self) -> int:
        """Count a change of the store."""
        self.revision += 1
        return self.revision

    def machine_of(self, member: Member) -> Machine | None:
        """Return the machine that runs a member."""
        return next((each for each in self.machines.values() if each.data_of == member.id), None)

    def is_up(self, member: Member) -> bool:
        """Whether a member's process runs."""
        machine = self.machine_of(member)
        return machine is not None and machine.is_on and machine.can_run_etcd

    @property
    def voters(self) -> list[Member]:
        """All that vote."""
        return [each for each in self.members.values() if not each.is_learner]

    @property
    def has_quorum(self) -> bool:
        """Whether a majority of the voters is up."""
        return 2 * sum(map(self.is_up, self.voters)) > len(self.voters)

    @property
    def leader(self) -> str:
        """Return who leads: who was given the lead, as long as it can, or whoever is elected."""
        able = sorted(each.id for each in self.voters if self.is_up(each))
        if not self.has_quorum:
            return ""
        return self.chosen if self.chosen in able else able[0]

    def pass_time(self, seconds: float) -> None:
        """Let time go by."""
        self.now += seconds

    def run_agent(self, machine: Machine) -> tuple[str, float, int, bool]:
        """Carry out what a machine is wanted to run; return its report."""
        assert machine.is_on
        record = self.records.get(machine.id)
        if machine.is_known and (record is None or record.manager.phase is ManagerPhase.LEAVING):
            assert machine.data_of not in self.members, "data of a member were deleted"
            machine.data_of = ""
        elif record is not None and not machine.data_of and machine.can_run_etcd:
            self._begin(machine, record.manager)
        return machine.id, self.now, self.revision, bool(machine.data_of)

    def _begin(self, machine: Machine, manager: Manager) -> None:
        """Start etcd for the first time, as far as etcd lets it."""
        member = self.members.get(manager.member_id)
        named = {part.split("=")[1] for part in manager.initial_cluster.split(",")}
        if member is not None and named == {each.peer_url for each in self.members.values()}:
            assert member.peer_url == machine.peer_url
            assert not member.name, "a member was begun twice"
            member.name = machine.id
            machine.data_of = member.id

    def take_report(self, report: tuple[str, float, int, bool]) -> None:
        """Write a report, which may be late."""
        name, at, revision, has_data = report
        machine = self.machines[name]
        machine.seen_at, machine.revision, machine.has_data = at, revision, has_data

    def view(self) -> VotersView:
        """Return what a leader sees."""
        members = []
        for member in self.members.values():
            if self.is_up(member):
                self.down_since.pop(member.id, None)
            else:
                self.down_since.setdefault(member.id, self.now)
            members.append(
                MemberView(
                    member.id,
                    member.name,
                    member.peer_url,
                    member.is_learner,
                    self.down_since.get(member.id),
                    is_leading=member.id == self.leader,
                )
            )
        nodes = tuple(self._node_view(each) for each in self.machines.values() if each.is_known)
        return VotersView(nodes, tuple(members), tuple(self.records.values()))

    def _node_view(self, machine: Machine) -> NodeView:
        return NodeView(
            id=machine.id,
            name=machine.id,
            peer_url=machine.peer_url,
            role=machine.role,
            joined_at=machine.joined_at,
            seen_at=machine.seen_at,
            hosts_replica=machine.hosts_replica,
            is_given_up=self.now - self.given_up.get(machine.id, 0) < 3600,
            revision=machine.revision,
            has_etcd_data=machine.has_data,
        )

    def act(self, action: Action) -> None:
        """Do what was decided, as etcd and the store would.

        Raises:
            RefusedError: they would not.

        """
        match action:
            case RecordManager(manager, modified):
                self._check_record(manager.node_id, modified)
                self.records[manager.node_id] = RecordView(manager, self.next_revision())
            case ForgetManager(node_id, modified):
                self._check_record(node_id, modified)
                self.next_revision()
                del self.records[node_id]
            case AddLearner(node):
                self._add(node.peer_url)
            case Promote(_, member_id):
                self._promote(member_id)
            case RemoveMember(member_id, node, is_given_up):
                if is_given_up and node is not None:
                    self.given_up[node.id] = self.now
                self._remove(member_id)
            case MoveLeadership(leader_id, member_id):
                self._move_leadership(leader_id, member_id)

    def _check_record(self, node_id: str, modified: int) -> None:
        if not self.has_quorum:
            raise RefusedError("no majority")
        found = self.records.get(node_id)
        if (found.modified if found else 0) != modified:
            raise RefusedError("the record was changed")

    def _check_members(self) -> None:
        if not self.has_quorum:
            raise RefusedError("no majority")

    def _add(self, peer_url: str) -> None:
        self._check_members()
        if not all(map(self.is_up, self.voters)):
            raise RefusedError("unhealthy cluster")
        members = self.members.values()
        if any(each.is_learner or each.peer_url == peer_url for each in members):
            raise RefusedError("there is one already")
        member = Member(f"a{self.next_revision()}", peer_url, is_learner=True)
        self.members[member.id] = member

    def _promote(self, member_id: str) -> None:
        self._check_members()
        member = self.members.get(member_id)
        if member is None or not self.is_up(member):
            raise RefusedError("not in sync with leader")
        member.is_learner = False

    def _move_leadership(self, leader_id: str, member_id: str) -> None:
        member = self.members.get(member_id)
        if leader_id != self.leader:
            raise RefusedError("not leader")
        if member is None or member.is_learner or not self.is_up(member):
            raise RefusedError("bad leader transferee")
        self.chosen = member_id

    def _remove(self, member_id: str) -> None:
        self._check_members()
        member = self.members.get(member_id)
        if member is None:
            return
        rest = [each for each in self.voters if each.id != member_id]
        live = sum(map(self.is_up, rest))
        # etcd's own check: those that are connected besides a live one that is removed.
        if not member.is_learner and self.is_up(member) and live < 1 + (len(self.voters) - 1) // 2:
            raise RefusedError("unhealthy cluster")
        if not member.is_learner and not rest:
            raise RefusedError("not enough started members")
        del self.members[member_id]
