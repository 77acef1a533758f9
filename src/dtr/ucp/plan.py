"""Which nodes vote in etcd: what the leading controller does next about it, and why.

`decide` is pure. Its invariants, which `tests/ucp/test_voters_plan.py` holds it to while steps are
interrupted, answers lost and machines killed:

- Nothing that it does costs etcd its majority: no voter is removed and none is made unless the
  voters that answer would be a majority of those there are then.
- One change at a time: while there is a learner, the only change is to promote or remove it.
- A voter begins as a learner, and is promoted when it has caught up.
- Two voters are worse than one: from an odd number it grows only when two more nodes are there, or
  when the one more is to replace another.
- A node's etcd is told to go (phase LEAVING) only when its member is in etcd's list no more, and
  the node is chosen again only after it has reported that nothing is left.
- A voter that answers is never exchanged for taste: only for what somebody said (a role).
- A voter that leads and answers hands the lead to one that stays before it is removed, so that
  nobody has to notice its absence first.
- When everything is as it should be there is no action; then the number of voters is odd.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from dtr.ucp.model import Manager, ManagerPhase, Role

MOST_VOTERS: Final = 7
SILENT_SECONDS: Final = 15.0
"""A node that has reported within these is there, and can become a voter."""
PATIENCE_SECONDS: Final = 600.0
"""A voter that does not answer for longer is replaced; a node that is silent is not waited for."""
LEARNER_SECONDS: Final = 120.0
"""A learner that does not answer for longer is removed, and another node is tried."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node, as far as its part in etcd goes."""

    id: str
    name: str
    peer_url: str
    role: Role
    joined_at: float
    seen_at: float
    """When it reported last, or joined."""
    is_paused: bool = False
    hosts_replica: bool = False
    is_given_up: bool = False
    """Whether it was tried lately, and its etcd never answered."""
    revision: int = 0
    """Of the last `Wanted` that it has carried out."""
    has_etcd_data: bool = True
    """Whether, at that revision, something of a member was left on it; True where unknown."""


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member in etcd's own list."""

    id: str
    name: str
    """Empty until it was started for the first time."""
    peer_url: str
    is_learner: bool
    down_since: float | None = None
    """Since when it does not answer; None: it does."""
    is_leading: bool = False
    """Whether it leads the others, and has not refused lately to hand that on."""

    @property
    def is_live(self) -> bool:
        """Whether it answers and knows a leader."""
        return self.down_since is None


@dataclass(frozen=True, slots=True)
class RecordView:
    """A node's record and the revision of its last change."""

    manager: Manager
    modified: int


@dataclass(frozen=True, slots=True)
class VotersView:
    """One look at everything. The records must have been read before the members."""

    nodes: tuple[NodeView, ...]
    members: tuple[MemberView, ...]
    records: tuple[RecordView, ...]


@dataclass(frozen=True, slots=True)
class AddLearner:
    """Add the node's member to etcd, without a vote."""

    node: NodeView


@dataclass(frozen=True, slots=True)
class Promote:
    """Let the node's member vote. etcd refuses until it has caught up."""

    node: NodeView
    member_id: str


@dataclass(frozen=True, slots=True)
class RemoveMember:
    """Remove a member from etcd."""

    member_id: str
    node: NodeView | None
    is_given_up: bool = False
    """Whether because its etcd never answered."""


@dataclass(frozen=True, slots=True)
class MoveLeadership:
    """Have another voter lead."""

    leader_id: str
    member_id: str


@dataclass(frozen=True, slots=True)
class RecordManager:
    """Write the node's record, if it still is of that revision (0: there is none)."""

    manager: Manager
    modified: int


@dataclass(frozen=True, slots=True)
class ForgetManager:
    """Delete a node's record, if it still is of that revision."""

    node_id: str
    modified: int


Action = AddLearner | Promote | RemoveMember | MoveLeadership | RecordManager | ForgetManager


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, in this order, and why in one sentence."""

    actions: tuple[Action, ...]
    reason: str


def decide(view: VotersView, now: float) -> Decision:
    """Return the next thing to do; see the module for what it never does."""
    look = _Look(view, now)
    records = tuple(_record_actions(look))
    if records:
        return Decision(records, "records are brought in line with etcd's members")
    if 2 * len(look.live_voters) <= len(look.voters):
        return Decision((), "no majority of etcd's voters answers: nothing can be changed")
    if look.learner is not None:
        return _tend_learner(look, look.learner)
    return _remove_unwanted(look) or _add_wanted(look) or Decision((), _settled(look))


@dataclass(slots=True)
class _Look:
    """A view with what follows from it."""

    view: VotersView
    now: float
    nodes: dict[str, NodeView] = field(init=False)
    records: dict[str, RecordView] = field(init=False)
    voters: list[MemberView] = field(init=False)
    live_voters: list[MemberView] = field(init=False)
    learner: MemberView | None = field(init=False)
    candidates: list[NodeView] = field(init=False)
    """Nodes that are there and could be made learners now."""
    wanted: list[NodeView] = field(init=False)
    """Nodes that should be voters, the most important first; an odd number."""

    def __post_init__(self) -> None:
        self.nodes = {node.id: node for node in self.view.nodes}
        self.records = {each.manager.node_id: each for each in self.view.records}
        self.voters = [each for each in self.view.members if not each.is_learner]
        self.live_voters = [each for each in self.voters if each.is_live]
        self.learner = next((each for each in self.view.members if each.is_learner), None)
        self.candidates = [node for node in self._addable() if self.is_there(node)]
        self.wanted = self._wanted()

    def node_of(self, member: MemberView) -> NodeView | None:
        """Return the node of a member; None where it was removed."""
        for record in self.records.values():
            if record.manager.member_id == member.id:
                return self.nodes.get(record.manager.node_id)
        if member.name:  # a machine that joined anew has the same URL, and is another node
            return self.nodes.get(member.name)
        same = (node for node in self.nodes.values() if node.peer_url == member.peer_url)
        return next(same, None)

    def member_of(self, node: NodeView) -> MemberView | None:
        """Return a node's member."""
        return next((each for each in self.view.members if self.node_of(each) == node), None)

    def is_there(self, node: NodeView) -> bool:
        """Whether the node has reported lately."""
        return self.now - node.seen_at <= SILENT_SECONDS

    def is_lost(self, member: MemberView) -> bool:
        """Whether a member has not answered for longer than anybody waits."""
        return member.down_since is not None and self.now - member.down_since > PATIENCE_SECONDS

    def is_wanted(self, member: MemberView) -> bool:
        """Whether a member's node should be a voter."""
        return self.node_of(member) in self.wanted

    def missing(self) -> list[NodeView]:
        """Return the nodes that should be voters and are no members."""
        return [node for node in self.wanted if self.member_of(node) is None]

    def there(self) -> list[NodeView]:
        """Return those of the missing that could be made learners now."""
        return [node for node in self.missing() if self.is_there(node)]

    def can_remove(self, member: MemberView) -> bool:
        """Whether those that answer are a majority without it."""
        rest = [each for each in self.voters if each.id != member.id]
        live = [each for each in rest if each.is_live]
        return member.is_learner or 2 * len(live) > len(rest)

    def _addable(self) -> list[NodeView]:
        """Return the nodes that could become learners if they are there."""
        return [
            node
            for node in self.nodes.values()
            if node.role is not Role.WORKER
            and not node.is_paused
            and not node.is_given_up
            and node.id not in self.records
            and self.member_of(node) is None
        ]

    def _wanted(self) -> list[NodeView]:
        """Return which nodes should vote: an odd number, chosen so that it changes seldom."""
        members = {node.id: each for each in self.view.members if (node := self.node_of(each))}
        able = [self.nodes[each] for each in members if self.nodes[each].role is not Role.WORKER]
        if self.candidates:
            # Lost voters are replaced. All of them go: etcd takes no member while one is away.
            able = [node for node in able if not self.is_lost(members[node.id])]
        patient = [node for node in self._addable() if self.now - node.seen_at <= PATIENCE_SECONDS]
        able += patient
        if not able:  # nobody may vote: one that does goes on, or there is no control plane
            able = [self.nodes[each] for each in members if not members[each].is_learner]
            count = 1
        else:
            count = min(len(able), MOST_VOTERS)
        count -= 1 - count % 2

        def rank(node: NodeView) -> tuple[object, ...]:
            member = members.get(node.id)
            is_absent = self.is_lost(member) if member else not self.is_there(node)
            return (
                is_absent,
                node.role is not Role.MANAGER,
                member is None,
                member is not None and member.is_learner,
                member is not None and not member.is_live,
                not node.hosts_replica,
                node.joined_at,
                node.id,
            )

        return sorted(able, key=rank)[:count]


def _record_actions(look: _Look) -> Iterator[Action]:
    """Bring the records in line with the members: they alone say who takes part."""
    for member in look.view.members:
        node = look.node_of(member)
        if node is not None:
            yield from _record_of_member(look, member, node)
    for record in look.view.records:
        node = look.nodes.get(record.manager.node_id)
        if node is None:
            # While its member is there, the record tells whose that is.
            if all(each.id != record.manager.member_id for each in look.view.members):
                yield ForgetManager(record.manager.node_id, record.modified)
        elif look.member_of(node) is None:
            yield from _record_without_member(record, node)


def _record_of_member(look: _Look, member: MemberView, node: NodeView) -> Iterator[Action]:
    record = look.records.get(node.id)
    if record is None:
        yield RecordManager(_manager_of(look, node, member, None), 0)
    elif record.manager.phase is ManagerPhase.LEAVING:
        return  # added by a leader that was late; `_tend_learner` removes it
    elif record.manager.member_id not in {"", member.id}:
        # Its member was removed, and this is another one, which nothing runs for yet.
        yield _leaving(record)
    elif (manager := _manager_of(look, node, member, record.manager)) != record.manager:
        yield RecordManager(manager, record.modified)


def _record_without_member(record: RecordView, node: NodeView) -> Iterator[Action]:
    if record.manager.phase is not ManagerPhase.LEAVING:
        yield _leaving(record)
    elif node.revision >= record.modified and not node.has_etcd_data:
        yield ForgetManager(node.id, record.modified)


def _leaving(record: RecordView) -> RecordManager:
    manager: Manager = record.manager.changed(phase=ManagerPhase.LEAVING)
    return RecordManager(manager, record.modified)


def _manager_of(look: _Look, node: NodeView, member: MemberView, before: Manager | None) -> Manager:
    """Return what a member's record should be.

    What it is started with stays as it was from its first start on, except that it never begins a
    new cluster again.
    """
    is_kept = before is not None and bool(member.name)
    return Manager(
        node_id=node.id,
        member_id=member.id,
        peer_url=member.peer_url,
        phase=ManagerPhase.LEARNER if member.is_learner else ManagerPhase.VOTER,
        initial_cluster=before.initial_cluster if before and is_kept else _initial_cluster(look),
        is_new_cluster=False,
    )


def _initial_cluster(look: _Look) -> str:
    """Return what a new member is started with: every member, by its node's id."""
    named = []
    for member in look.view.members:
        node = look.node_of(member)
        named.append(f"{node.id if node else member.name or member.id}={member.peer_url}")
    return ",".join(sorted(named))


def _tend_learner(look: _Look, learner: MemberView) -> Decision:
    """Promote the learner, wait for it, or give it up."""
    node = look.node_of(learner)
    record = look.records.get(node.id) if node else None
    if node is None or record is None or record.manager.phase is ManagerPhase.LEAVING:
        remove = RemoveMember(learner.id, node)
        return Decision((remove,), "a learner belongs to no node that is to be a manager")
    if not look.is_wanted(learner):
        remove = RemoveMember(learner.id, node)
        return Decision((remove,), f"{node.name} is wanted as a voter no more")
    if learner.down_since is not None:
        if look.now - learner.down_since <= LEARNER_SECONDS:
            return Decision((), f"waits for etcd on {node.name} to answer")
        # Where the whole machine is away, it is welcome again as soon as it is back.
        remove = RemoveMember(learner.id, node, is_given_up=look.is_there(node))
        return Decision((remove,), f"etcd on {node.name} does not answer, and is given up")
    return _promote(look, learner, node)


def _promote(look: _Look, learner: MemberView, node: NodeView) -> Decision:
    # Those that answer are a majority, and with one more that answers they still are.
    if not _may_grow(look, len(look.there())):
        return Decision((), f"{node.name} can vote when one more node is there with it")
    return Decision((Promote(node, learner.id),), f"{node.name} becomes a voter")


def _remove_unwanted(look: _Look) -> Decision | None:
    """Remove a voter whose node was removed, or is lost and replaced, or is wanted no more."""
    for voter in _unwanted(look):
        node = look.node_of(voter)
        name = node.name if node else f"the removed node of member {voter.id}"
        # One that answers is replaced first. One that does not has to go first: as long as it is
        # a voter, etcd takes no other.
        is_time = node is None or not voter.is_live or not look.missing()
        if is_time and look.can_remove(voter):
            heir = _heir(look, voter)
            if heir is not None:
                move = MoveLeadership(voter.id, heir.id)
                return Decision((move,), f"{_names(look, [heir])} leads etcd instead of {name}")
            return Decision((RemoveMember(voter.id, node),), f"{name} is a voter no more")
    return None


def _heir(look: _Look, voter: MemberView) -> MemberView | None:
    """Return who is to lead before this voter is removed; None where it does not lead.

    One that stays where there is any: to be handed on twice is no better than an election.
    """
    if not voter.is_leading or not voter.is_live:
        return None
    able = [each for each in look.live_voters if each.id != voter.id]
    return min(able, key=lambda each: (not look.is_wanted(each), each.id), default=None)


def _add_wanted(look: _Look) -> Decision | None:
    """Make a learner of a node that should vote."""
    missing = look.missing()
    if not missing:
        return None
    away = [each for each in look.voters if not each.is_live]
    if away:
        names = _names(look, away)
        return Decision((), f"{missing[0].name} waits until etcd answers on {names}")
    there = look.there()
    if not there:
        return Decision((), f"waits for {missing[0].name}, which is to be a voter, to report")
    if not _may_grow(look, len(there) - 1):
        return Decision((), f"{there[0].name} waits for one more: two voters are worse than one")
    return Decision((AddLearner(there[0]),), f"{there[0].name} is to be a voter")


def _may_grow(look: _Look, others: int) -> bool:
    """Tell whether with one voter more their number is odd, or soon will be.

    `others` nodes are there to follow that one.
    """
    return len(look.voters) % 2 == 0 or others > 0 or bool(_unwanted(look))


def _unwanted(look: _Look) -> list[MemberView]:
    """Return the voters that should be none, those of removed nodes first, then the lost."""
    unwanted = [each for each in look.voters if not look.is_wanted(each)]

    def rank(voter: MemberView) -> tuple[object, ...]:
        node = look.node_of(voter)
        if node is None:
            return (0,)
        is_keen = node.role is not Role.WORKER
        return (1, not look.is_lost(voter), voter.is_live, is_keen, -node.joined_at, node.id)

    return sorted(unwanted, key=rank)


def _settled(look: _Look) -> str:
    count = len(look.voters)
    unwanted = _unwanted(look)
    if unwanted:
        return f"{_names(look, unwanted)} cannot be removed before more of the voters answer"
    away = [each for each in look.voters if not each.is_live]
    if away:
        return f"{count} voters, of which etcd does not answer on {_names(look, away)}"
    return f"{count} voter{'s' if count > 1 else ''}, as it should be"


def _names(look: _Look, members: Sequence[MemberView]) -> str:
    nodes = [look.node_of(each) for each in members]
    return ", ".join(node.name if node else "a removed node" for node in nodes)
