"""The loop that keeps etcd's voters as `ucp.plan` wants them."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from pydantic import ValidationError

from dtr.model.errors import UnavailableError
from dtr.ucp import keys
from dtr.ucp.etcd.component import NAME as ETCD_SERVICE
from dtr.ucp.etcd.component import EtcdReport
from dtr.ucp.etcd.connection import EtcdRefusedError
from dtr.ucp.etcd.members import EtcdMember, EtcdMembers, EtcdStatus
from dtr.ucp.model import ETCD_PEER_PORT, Manager, Node, NodeReport
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
    decide,
)
from dtr.ucp.store import Delete, Entry, FencedStore, IsUnchanged, Loop, Put
from dtr.ucp.wanted import authority

_REPLICA: Final = "/replica"
_GIVEN_UP_SECONDS: Final = 3600.0
_MOVING_SECONDS: Final = 60.0
"""For so long after it was in vain to move the lead nobody tries again, and removals go on."""


class Members(Protocol):
    """What of `EtcdMembers` the loop uses."""

    async def list(self) -> tuple[EtcdMember, ...]:
        """Return all members, as of now or later."""
        ...

    async def status(self, client_url: str) -> EtcdStatus | None:
        """Return what a member says; None where it does not answer."""
        ...

    async def add_learner(self, peer_url: str) -> EtcdMember:
        """Add a member that does not vote."""
        ...

    async def promote(self, member_id: str) -> None:
        """Let a learner vote; idempotent."""
        ...

    async def remove(self, member_id: str) -> None:
        """Remove a member; idempotent."""
        ...

    async def move_leadership(self, leader_url: str, member_id: str) -> None:
        """Have another voter lead; idempotent."""
        ...


class VotersLoop:
    """Looks at nodes and members, decides, and does the one thing that is next.

    What it remembers from cycle to cycle is only since when something has been so. A leader that
    begins knows nothing of that and is patient anew. Times are measured, not read off clocks: those
    of two controllers differ, and each may be set while it runs.
    """

    name = "voters"

    def __init__(
        self, members: Members, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._members = members
        self._monotonic = monotonic
        self._down_since: dict[str, float] = {}
        self._given_up: dict[str, float] = {}
        self._urls: dict[str, str] = {}
        """Where members are asked, by id."""
        self._stuck: dict[str, float] = {}
        """By member, when it was in vain to have it hand on the lead."""
        self._reported: dict[str, tuple[int, float | None]] = {}
        """By node, the revision of its last report, and when that was seen to change."""

    async def cycle(self, store: FencedStore, now: float) -> str:
        """Do the next thing there is to do and return why.

        Raises:
            UnavailableError: etcd did not answer; what was asked for may have been done.

        """
        decision = decide(await self._look(store, now), now)
        for action in decision.actions:
            try:
                is_done = await self._act(store, action)
            except EtcdRefusedError as error:
                return f"{decision.reason}; etcd does not want that yet: {error.reason}"
            if not is_done:
                return f"{decision.reason}; something was changed meanwhile"
        return decision.reason

    async def _look(self, store: FencedStore, now: float) -> VotersView:
        # Records before members: a record is written after its member was added, so that a record
        # without a member is one whose member was removed.
        records, _ = await store.list(keys.MANAGERS)
        members = await self._look_at_members(now)
        nodes, _ = await store.list(keys.NODES)
        reports, _ = await store.list(keys.REPORTS)
        services, _ = await store.list(keys.SERVICES)
        hosts = {each.key.split("/")[-2] for each in services if each.key.endswith(_REPLICA)}
        reported = {each.key.removeprefix(keys.REPORTS): each for each in reports}
        return VotersView(
            nodes=tuple(
                self._node_view(node, reported.get(node.id), is_host=node.id in hosts, now=now)
                for node in (each.document(Node) for each in nodes)
            ),
            members=members,
            records=tuple(RecordView(each.document(Manager), each.modified) for each in records),
        )

    async def _look_at_members(self, now: float) -> tuple[MemberView, ...]:
        members = await self._members.list()
        answers = await asyncio.gather(*(self._answer(each) for each in members))
        self._urls = {each.id: each.client_url for each in members}
        self._down_since = {each: t for each, t in self._down_since.items() if each in self._urls}
        self._stuck = {each: t for each, t in self._stuck.items() if each in self._urls}
        views = []
        for member, status in zip(members, answers, strict=True):
            down_since = None
            if status is not None:
                self._down_since.pop(member.id, None)
            else:
                begun = self._down_since.setdefault(member.id, self._monotonic())
                down_since = now - (self._monotonic() - begun)
            views.append(
                MemberView(
                    id=member.id,
                    name=member.name,
                    peer_url=member.peer_url,
                    is_learner=member.is_learner,
                    down_since=down_since,
                    is_leading=status is not None
                    and status.leader_id == member.id
                    and not self._is_stuck(member),
                )
            )
        return tuple(views)

    async def _answer(self, member: EtcdMember) -> EtcdStatus | None:
        """Return what a member says; None where it does not answer, or knows no leader."""
        status = await self._members.status(member.client_url) if member.client_url else None
        is_live = status is not None and status.member_id == member.id and bool(status.leader_id)
        return status if is_live else None

    def _is_stuck(self, member: EtcdMember) -> bool:
        since = self._stuck.get(member.id)
        return since is not None and self._monotonic() - since < _MOVING_SECONDS

    def _node_view(self, node: Node, entry: Entry | None, *, is_host: bool, now: float) -> NodeView:
        report = entry.document(NodeReport) if entry else None
        etcd = _etcd_report(report)
        given_up = self._given_up.get(node.id)
        return NodeView(
            id=node.id,
            name=node.name,
            peer_url=peer_url(node),
            role=node.role,
            joined_at=node.joined_at,
            seen_at=self._seen_at(node, entry, report, now),
            is_paused=node.is_paused,
            hosts_replica=is_host,
            is_given_up=given_up is not None and self._monotonic() - given_up < _GIVEN_UP_SECONDS,
            revision=report.revision if report and etcd else 0,
            has_etcd_data=etcd.has_data if etcd else True,
        )

    def _seen_at(
        self, node: Node, entry: Entry | None, report: NodeReport | None, now: float
    ) -> float:
        """Return when a node was seen last: by the change of its report, once one was seen."""
        if entry is None or report is None:
            return node.joined_at
        revision, seen = self._reported.get(node.id, (entry.modified, None))
        if revision != entry.modified:
            seen = self._monotonic()
        self._reported[node.id] = (entry.modified, seen)
        return report.received_at if seen is None else now - (self._monotonic() - seen)

    async def _act(self, store: FencedStore, action: Action) -> bool:
        match action:
            case RecordManager(manager, modified):
                key = keys.manager(manager.node_id)
                changes = [Put(key, manager.encoded())]
                return await store.commit(changes, [IsUnchanged(key, modified)])
            case ForgetManager(node_id, modified):
                key = keys.manager(node_id)
                return await store.commit([Delete(key)], [IsUnchanged(key, modified)])
        # Members cannot be changed on a condition. So it is asked just before whether this one
        # still leads; of two that do it all the same, etcd refuses what would cost the majority.
        if not await store.commit([]):
            return False
        match action:
            case AddLearner(node):
                await self._members.add_learner(node.peer_url)
            case Promote(_, member_id):
                await self._members.promote(member_id)
            case RemoveMember(member_id, node, is_given_up):
                if is_given_up and node is not None:
                    self._given_up[node.id] = self._monotonic()
                await self._members.remove(member_id)
            case MoveLeadership(leader_id, member_id):
                await self._move_leadership(leader_id, member_id)
        return True

    async def _move_leadership(self, leader_id: str, member_id: str) -> None:
        """Have another member lead; without that its removal costs an election, and no more."""
        try:
            await self._members.move_leadership(self._urls[leader_id], member_id)
        except UnavailableError:
            self._stuck[leader_id] = self._monotonic()
            raise


def peer_url(node: Node) -> str:
    """Return where the other members reach a node's etcd."""
    return f"https://{authority(node.host_address, ETCD_PEER_PORT)}"


def _etcd_report(report: NodeReport | None) -> EtcdReport | None:
    if report is None or ETCD_SERVICE not in report.services:
        return None
    try:
        return EtcdReport.model_validate(report.services[ETCD_SERVICE])
    except ValidationError:
        return None


if TYPE_CHECKING:
    _loop: type[Loop] = VotersLoop
    _members: type[Members] = EtcdMembers
