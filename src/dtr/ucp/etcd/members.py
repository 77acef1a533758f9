"""The members of etcd: who votes, who learns, who answers, and how full they are."""

import re
from dataclasses import dataclass
from typing import Any, Final

from dtr.model.errors import UnavailableError
from dtr.ucp.etcd.connection import EtcdConnection, EtcdRefusedError, encoded

_UNKNOWN_MEMBER: Final = "member not found"
_IS_VOTER: Final = "etcdserver: can only promote a learner member"
_IS_COMPACTED: Final = "has been compacted"
_FULL: Final = re.compile(r"memberID:(\d+) alarm:NOSPACE")
_DEFRAGMENT_SECONDS: Final = 20.0
"""512 MiB, the most there is, on a slow disk; the member answers nothing meanwhile."""


@dataclass(frozen=True, slots=True)
class EtcdMember:
    """A member as etcd's own list has it."""

    id: str
    """In hexadecimal."""
    name: str
    """Empty until it was started for the first time."""
    peer_url: str
    client_url: str
    """Empty until it was started for the first time."""
    is_learner: bool

    @property
    def is_started(self) -> bool:
        """Whether it has ever been started."""
        return bool(self.name)


@dataclass(frozen=True, slots=True)
class EtcdStatus:
    """What one member says of itself."""

    member_id: str
    leader_id: str
    """Empty where it knows of no leader."""
    is_learner: bool
    version: str
    database_bytes: int
    """What its file has grown to; what etcd holds against the quota."""
    used_bytes: int = 0
    """What of it is in use; the rest is free pages, which only defragmenting gives back."""
    revision: int = 0
    """Of the last change that it knows."""
    full_members: tuple[str, ...] = ()
    """The members that have raised the alarm NOSPACE: none takes anything new until it is gone."""


class EtcdMembers:
    """Looks at the members and changes them, one at a time.

    A change whose answer is lost raises `UnavailableError` and may have been done: look at `list`.
    """

    def __init__(self, connection: EtcdConnection) -> None:
        """Use a connection that somebody else closes."""
        self._connection = connection

    async def list(self) -> tuple[EtcdMember, ...]:
        """Return all members, as of now or later, ordered by id.

        etcd 3.4 answers from what the asked member has heard so far. It is made to hear everything
        that was agreed on before, by a linearizable read that the same member answers first.
        """
        barrier = {"key": encoded("/"), "keys_only": True}
        _, answer = await self._connection.call_in_turn(
            [("kv/range", barrier), ("cluster/member/list", {})], is_repeatable=True
        )
        return tuple(sorted(map(_member, answer["members"]), key=lambda member: member.id))

    async def add_learner(self, peer_url: str) -> EtcdMember:
        """Add a member that does not vote, and return it.

        Raises:
            EtcdRefusedError: a voter is not connected, there is a learner already, or a member with
                this URL.

        """
        answer = await self._connection.call(
            "cluster/member/add", {"peerURLs": [peer_url], "isLearner": True}, is_repeatable=False
        )
        return _member(answer["member"])

    async def promote(self, member_id: str) -> None:
        """Let a learner vote; idempotent.

        Raises:
            EtcdRefusedError: it has not caught up yet, or there is no such member.

        """
        try:
            await self._change("promote", member_id)
        except EtcdRefusedError as error:
            if error.reason != _IS_VOTER:  # "… which is in sync with leader" is another
                raise

    async def remove(self, member_id: str) -> None:
        """Remove a member; idempotent.

        Raises:
            EtcdRefusedError: without it no majority would be connected.

        """
        try:
            await self._change("remove", member_id)
        except EtcdRefusedError as error:
            if _UNKNOWN_MEMBER not in error.reason:
                raise

    async def status(self, client_url: str) -> EtcdStatus | None:
        """Return what the member at this URL says; None where it does not answer."""
        try:
            answer = await self._connection.ask(client_url, "maintenance/status", {})
        except UnavailableError:
            return None
        return EtcdStatus(
            member_id=_id(answer["header"]["member_id"]),
            leader_id=_id(answer["leader"]) if int(answer.get("leader", 0)) else "",
            is_learner=bool(answer.get("isLearner")),
            version=str(answer.get("version", "")),
            database_bytes=int(answer.get("dbSize", 0)),
            used_bytes=int(answer.get("dbSizeInUse", 0)),
            revision=int(answer["header"].get("revision", 0)),
            full_members=tuple(
                _id(found[1]) for each in answer.get("errors", ()) if (found := _FULL.search(each))
            ),
        )

    async def move_leadership(self, leader_url: str, member_id: str) -> None:
        """Have another voter lead; `leader_url` is of the member that leads. Idempotent.

        Raises:
            EtcdRefusedError: who was asked does not lead, the other is no voter, or it did not take
                over in time.
            UnavailableError: no answer; it may have been done.

        """
        body = {"targetID": str(int(member_id, 16))}
        await self._connection.ask(leader_url, "maintenance/transfer-leadership", body)

    async def compact(self, revision: int) -> None:
        """Forget what was before a revision, and return when that is done; idempotent.

        Watches that are behind are told that they have missed something.

        Raises:
            EtcdRefusedError: there is no such revision yet.

        """
        body = {"revision": str(revision), "physical": True}
        try:
            await self._connection.call("kv/compaction", body, is_repeatable=True)
        except EtcdRefusedError as error:
            if _IS_COMPACTED not in error.reason:
                raise

    async def defragment(self, client_url: str) -> None:
        """Have one member give back its free pages. It answers nothing else meanwhile.

        Raises:
            UnavailableError: no answer within 20 seconds; it may still be at it.

        """
        await self._connection.ask(
            client_url, "maintenance/defragment", {}, seconds=_DEFRAGMENT_SECONDS
        )

    async def disarm(self, member_id: str) -> None:
        """Take back a member's alarm NOSPACE; idempotent."""
        body = {"action": "DEACTIVATE", "memberID": str(int(member_id, 16)), "alarm": "NOSPACE"}
        await self._connection.call("maintenance/alarm", body, is_repeatable=True)

    async def _change(self, change: str, member_id: str) -> None:
        # It may be repeated: ids are never used again.
        body = {"ID": str(int(member_id, 16))}
        await self._connection.call(f"cluster/member/{change}", body, is_repeatable=True)


def _id(number: str) -> str:
    return f"{int(number):x}"


def _member(found: dict[str, Any]) -> EtcdMember:
    return EtcdMember(
        id=_id(found["ID"]),
        name=found.get("name", ""),
        peer_url=found["peerURLs"][0],
        client_url=next(iter(found.get("clientURLs", ())), ""),
        is_learner=bool(found.get("isLearner")),
    )
