"""The work that keeps etcd from staying full: looks, decides by `plan_space`, does the next thing.

It is done by the controller on the machine whose member leads etcd, and not by the controller that
leads: for that one a lease is needed, and an etcd that is full grants none. Whose member has come
to lead waits for longer than defragmenting may take, so that what another one began is over.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from dtr.model.errors import UnavailableError
from dtr.ucp.etcd.component import QUOTA_BYTES
from dtr.ucp.etcd.members import EtcdMember, EtcdMembers, EtcdStatus
from dtr.ucp.plan_space import (
    Compact,
    Defragment,
    Disarm,
    MemberSpace,
    SpaceAction,
    SpaceView,
    decide_space,
)

_LOG = structlog.get_logger()
SETTLED_SECONDS: Final = 25.0
"""Since when a member must lead before its machine's controller does anything."""
_LOOK_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 1.0


class Members(Protocol):
    """What of `EtcdMembers` is used."""

    async def list(self) -> tuple[EtcdMember, ...]:
        """Return all members."""
        ...

    async def status(self, client_url: str) -> EtcdStatus | None:
        """Return what a member says; None where it does not answer."""
        ...

    async def compact(self, revision: int) -> None:
        """Forget what was before a revision; idempotent."""
        ...

    async def defragment(self, client_url: str) -> None:
        """Have one member give back its free pages."""
        ...

    async def disarm(self, member_id: str) -> None:
        """Take back a member's alarm; idempotent."""
        ...


class SpaceKeeper:
    """Makes room in etcd while the member of its own machine leads."""

    def __init__(
        self,
        members: Members,
        own_url: str,
        *,
        quota_bytes: int = QUOTA_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`own_url` is where this machine's member is asked."""
        self._members = members
        self._own_url = own_url
        self._quota_bytes = quota_bytes
        self._monotonic = monotonic
        self._leading_since: float | None = None
        self._compacted_at: float | None = None
        self._defragmented: dict[str, float] = {}

    async def run(self) -> None:
        """Look and act until cancelled; what etcd does not answer is tried again."""
        reason = ""
        while True:
            is_quiet = True
            try:
                is_quiet, told = await self.step()
            except UnavailableError as error:
                told = f"something did not answer: {error}"
            if told != reason:
                reason = told
                _LOG.info("etcd's room", reason=reason)
            await asyncio.sleep(_LOOK_SECONDS if is_quiet else _PAUSE_SECONDS)

    async def step(self) -> tuple[bool, str]:
        """Do the next thing there is to do; return whether there was none, and why.

        Raises:
            UnavailableError: etcd did not answer, or refused; what was asked for may be done.

        """
        own = await self._members.status(self._own_url)
        if own is None or own.leader_id != own.member_id:
            self._leading_since = None
            self._compacted_at = None
            return True, "it is looked after where etcd's leader is"
        now = self._monotonic()
        if self._leading_since is None:
            self._leading_since = now
        if now - self._leading_since < SETTLED_SECONDS:
            return True, "etcd's leader has just come to lead"
        members = await self._members.list()
        decision = decide_space(await self._look(members, own), now)
        if decision.action is None:
            return True, decision.reason
        await self._act(decision.action, {each.id: each.client_url for each in members})
        return False, decision.reason

    async def _look(self, members: tuple[EtcdMember, ...], own: EtcdStatus) -> SpaceView:
        asked = (self._status(each) for each in members)
        statuses = dict(zip(members, await asyncio.gather(*asked), strict=True))
        told = (each.full_members for each in statuses.values() if each)
        full = tuple(sorted({member_id for each in told for member_id in each}))
        if not full:
            self._compacted_at = None
        return SpaceView(
            members=tuple(
                MemberSpace(
                    id=member.id,
                    name=member.name or member.peer_url,
                    is_sound=status is not None
                    and status.member_id == member.id
                    and status.leader_id == own.member_id
                    and not member.is_learner,
                    is_leading=member.id == own.member_id,
                    database_bytes=status.database_bytes if status else 0,
                    used_bytes=status.used_bytes if status else 0,
                    defragmented_at=self._defragmented.get(member.id),
                )
                for member, status in statuses.items()
            ),
            quota_bytes=self._quota_bytes,
            revision=own.revision,
            full_members=full,
            compacted_at=self._compacted_at,
        )

    async def _status(self, member: EtcdMember) -> EtcdStatus | None:
        return await self._members.status(member.client_url) if member.client_url else None

    async def _act(self, action: SpaceAction, urls: dict[str, str]) -> None:
        _LOG.warning("etcd makes room", action=repr(action))
        match action:
            case Compact(revision):
                await self._members.compact(revision)
                self._compacted_at = self._monotonic()
            case Defragment(member_id):
                try:
                    await self._members.defragment(urls[member_id])
                finally:  # without an answer it may be at it for long: not again at once
                    self._defragmented[member_id] = self._monotonic()
            case Disarm(member_id):
                await self._members.disarm(member_id)


if TYPE_CHECKING:
    _: type[Members] = EtcdMembers
