"""The loop that gives engines their keys, as `ucp.plan_keys` wants them."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from dtr.model.errors import UnavailableError
from dtr.ucp import keys
from dtr.ucp.etcd.component import NAME as ETCD_SERVICE
from dtr.ucp.etcd.component import EtcdReport
from dtr.ucp.etcd.connection import EtcdRefusedError
from dtr.ucp.etcd.members import EtcdMember
from dtr.ucp.keyring import (
    OF_MANAGERS,
    OF_SERVICES,
    OLDEST,
    Keyring,
    Stage,
    begun_again,
    issue,
    issue_again,
    keyring_after,
    reduced,
)
from dtr.ucp.model import ClusterRecord, Manager, ManagerPhase, Node, NodeKeys, NodeReport
from dtr.ucp.plan_keys import (
    Advance,
    Begin,
    HandOn,
    Holder,
    Issue,
    IssueAgain,
    KeyAction,
    KeysView,
    Renew,
    Voter,
    Withdraw,
    decide_keys,
)
from dtr.ucp.store import Change, Condition, Delete, Entry, FencedStore, IsUnchanged, Loop, Put
from dtr.ucp.voters import Members

_STUCK_SECONDS: Final = 60.0
"""For so long after it was in vain to move the lead nobody tries again, and the member restarts."""


class KeysLoop:
    """Looks at who is to hold keys and who does, decides, and does what is next."""

    name = "keys"

    def __init__(
        self, members: Members, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._members = members
        self._monotonic = monotonic
        self._urls: dict[str, str] = {}
        self._stuck_at = float("-inf")

    async def cycle(self, store: FencedStore, now: float) -> str:
        """Do the next thing there is to do and return why.

        Raises:
            UnavailableError: etcd did not answer; what was asked for may have been done.

        """
        look = await _Look.at(store)
        if look.cluster is None:
            return "the control plane has not begun"
        # Where everything is as it should be, no member is restarted, and none is asked.
        is_settled = look.keyring is not None and look.keyring.stage is Stage.SETTLED
        members = () if is_settled else await self._voters()
        decision = decide_keys(KeysView(look.keyring, look.holders(), members), now)
        for action in decision.actions:
            if not await self._act(store, look, action, now):
                return f"{decision.reason}; something was changed meanwhile"
        return decision.reason

    async def _voters(self) -> tuple[Voter, ...]:
        members = await self._members.list()
        statuses = await asyncio.gather(*(self._status(each) for each in members))
        self._urls = {each.id: each.client_url for each in members}
        is_stuck = self._monotonic() - self._stuck_at < _STUCK_SECONDS
        return tuple(
            Voter(
                id=member.id,
                node_id=member.name,
                is_live=leader is not None,
                is_leading=leader == member.id and not is_stuck,
                is_learner=member.is_learner,
            )
            for member, leader in zip(members, statuses, strict=True)
        )

    async def _status(self, member: EtcdMember) -> str | None:
        """Return whom a member knows as leader; None where it does not answer, or knows none."""
        status = await self._members.status(member.client_url) if member.client_url else None
        if status is None or status.member_id != member.id:
            return None
        return status.leader_id or None

    async def _act(self, store: FencedStore, look: "_Look", action: KeyAction, now: float) -> bool:
        if isinstance(action, HandOn):
            return await self._hand_on(store, action)
        return await store.commit(*look.written(action, now))

    async def _hand_on(self, store: FencedStore, action: HandOn) -> bool:
        if not await store.commit([]):  # members cannot be asked on a condition
            return False
        try:
            await self._members.move_leadership(self._urls[action.leader_id], action.member_id)
        except (UnavailableError, EtcdRefusedError):
            self._stuck_at = self._monotonic()
        return True


class _Look:
    """What the store has, and what it is to have."""

    def __init__(self, cluster: ClusterRecord | None, keyring_entry: Entry | None) -> None:
        self.cluster = cluster
        self.keyring = keyring_entry.document(Keyring) if keyring_entry else None
        self._keyring_modified = keyring_entry.modified if keyring_entry else 0
        self._nodes: dict[str, Node] = {}
        self._kinds: dict[str, frozenset[str]] = {}
        self._held: dict[str, tuple[NodeKeys, int]] = {}
        self._reports: dict[str, NodeReport] = {}

    @classmethod
    async def at(cls, store: FencedStore) -> "_Look":
        cluster = await store.get(keys.CLUSTER)
        found = cls(
            cluster.document(ClusterRecord) if cluster else None, await store.get(keys.KEYRING)
        )
        nodes, _ = await store.list(keys.NODES)
        managers, _ = await store.list(keys.MANAGERS)
        services, _ = await store.list(keys.SERVICES)
        held, _ = await store.list(keys.NODE_KEYS)
        reports, _ = await store.list(keys.REPORTS)
        found._nodes = {each.id: each for each in (entry.document(Node) for entry in nodes)}
        found._kinds = _kinds([each.document(Manager) for each in managers], services)
        found._held = {
            each.key.removeprefix(keys.NODE_KEYS): (each.document(NodeKeys), each.modified)
            for each in held
        }
        found._reports = {
            each.key.removeprefix(keys.REPORTS): each.document(NodeReport) for each in reports
        }
        return found

    def holders(self) -> tuple[Holder, ...]:
        """Return whoever is to hold keys, and whoever does."""
        return tuple(map(self._holder, sorted({*self._nodes, *self._held})))

    def _holder(self, node_id: str) -> Holder:
        node, report = self._nodes.get(node_id), self._reports.get(node_id)
        held, modified = self._held.get(node_id, (None, 0))
        return Holder(
            id=node_id,
            name=node.name if node else node_id,
            kinds=self._kinds.get(node_id, frozenset()) if node else frozenset(),
            takes_keys=report is not None and report.takes_keys,
            revision=report.revision if report else 0,
            etcd_trust=_etcd_trust(report),
            keys=held,
            modified=modified,
        )

    def written(self, action: KeyAction, now: float) -> tuple[list[Change], list[Condition]]:
        """Return what is written, and what must not have been changed meanwhile."""
        still = [IsUnchanged(keys.KEYRING, self._keyring_modified)]
        match action:
            case Issue(holder):
                key = keys.node_keys(holder.id)
                assert self.keyring is not None  # noqa: S101 - nothing is issued without
                made = issue(self.keyring, self._nodes[holder.id], holder.kinds, now)
                return [Put(key, made.encoded())], [*still, IsUnchanged(key, holder.modified)]
            case IssueAgain(holder):
                key = keys.node_keys(holder.id)
                assert self.keyring is not None  # noqa: S101 - nothing is issued without
                assert holder.keys is not None  # noqa: S101 - nor again where it never was
                node = self._nodes[holder.id]
                made = issue_again(self.keyring, node, holder.kinds, now, holder.keys)
                return [Put(key, made.encoded())], [*still, IsUnchanged(key, holder.modified)]
            case Withdraw(holder):
                return self._withdrawn(holder, still)
            case _:
                return [Put(keys.KEYRING, self._keyring_for(action, now).encoded())], [*still]

    def _withdrawn(
        self, holder: Holder, still: list[IsUnchanged]
    ) -> tuple[list[Change], list[Condition]]:
        key = keys.node_keys(holder.id)
        assert self.keyring is not None  # noqa: S101 - nothing is withdrawn without
        assert holder.keys is not None  # noqa: S101 - nor where there is nothing
        left = reduced(holder.keys, holder.kinds)
        changes: list[Change] = [Put(key, left.encoded()) if holder.kinds else Delete(key)]
        # Generation 0 shows nodes' own certificates, which nobody trusts once it is over.
        if holder.keys.generation != OLDEST and not self.keyring.is_due:
            self.keyring = self.keyring.changed(is_due=True)
            changes.append(Put(keys.KEYRING, self.keyring.encoded()))
        return changes, [IsUnchanged(key, holder.modified), *still]

    def _keyring_for(self, action: KeyAction, now: float) -> Keyring:
        assert self.cluster is not None  # noqa: S101 - `cycle` has looked
        if isinstance(action, Begin):
            return keyring_after(self.cluster.ca_certificate, self.cluster.id, now)
        assert self.keyring is not None  # noqa: S101 - there is one after `Begin`
        if isinstance(action, Renew):
            return begun_again(self.keyring, self.cluster.id, now)
        assert isinstance(action, Advance)  # noqa: S101 - the last that is left
        is_over = action.stage is Stage.SETTLED
        generations = (self.keyring.newest,) if is_over else self.keyring.generations
        changed: Keyring = self.keyring.changed(
            stage=action.stage, stage_since=now, generations=generations
        )
        return changed


def _kinds(managers: list[Manager], services: list[Entry]) -> dict[str, frozenset[str]]:
    """Return what each node is to hold."""
    kinds: dict[str, frozenset[str]] = {
        each.node_id: OF_MANAGERS for each in managers if each.phase is not ManagerPhase.LEAVING
    }
    for entry in services:
        node_id, _, name = entry.key.removeprefix(keys.SERVICES).partition("/")
        own = OF_SERVICES.get(name, frozenset())
        kinds[node_id] = kinds.get(node_id, frozenset()) | own
    return kinds


def _etcd_trust(report: NodeReport | None) -> str:
    if report is None or ETCD_SERVICE not in report.services:
        return ""
    try:
        return EtcdReport.model_validate(report.services[ETCD_SERVICE]).trust
    except ValidationError:
        return ""


if TYPE_CHECKING:
    _: type[Loop] = KeysLoop
