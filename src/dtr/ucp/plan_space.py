"""What is done so that etcd never stays full: pure.

etcd refuses everything new once a member's file has grown to its quota, and goes on to refuse until
there is room and somebody has taken the alarm back. The file only grows: what compaction frees is
used again, but given back only by defragmenting, during which that member answers nothing. The
invariants, which `tests/ucp/test_space_plan.py` holds it to:

- At most one member is defragmented at a time, and none while another does not answer, does not
  know the leader, or is still learning: those that are left are a majority wherever one can be.
- The member that leads etcd comes last.
- History is given up (beyond what etcd itself forgets) only while nothing can be written, and the
  alarm is taken back only once every member has room: else etcd would raise it again at once.
- A member that is not full is defragmented only where at least half of a large file is free, and at
  most once an hour.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

WORTH_SHARE: Final = 0.25
"""Of the quota; a smaller file is left as it is."""
ROOM_SHARE: Final = 0.8
"""Of the quota; with a larger file there is no room."""
TIDY_SECONDS: Final = 3600.0
AGAIN_SECONDS: Final = 600.0
"""After which it is tried once more to make room, where that was in vain."""


@dataclass(frozen=True, slots=True)
class MemberSpace:
    """One member of etcd, as far as its room goes."""

    id: str
    name: str
    """For people."""
    is_sound: bool
    """Whether it answers, votes, and knows who leads."""
    is_leading: bool
    database_bytes: int = 0
    used_bytes: int = 0
    defragmented_at: float | None = None
    """When it was last, as far as is known."""


@dataclass(frozen=True, slots=True)
class SpaceView:
    """One look at all members."""

    members: tuple[MemberSpace, ...]
    quota_bytes: int
    revision: int
    full_members: tuple[str, ...] = ()
    """The ids of those whose alarm is raised; one may have been removed since."""
    compacted_at: float | None = None
    """When history was given up because of that."""


@dataclass(frozen=True, slots=True)
class Compact:
    """Forget everything but what is there now."""

    revision: int


@dataclass(frozen=True, slots=True)
class Defragment:
    """Have this member give back what is free."""

    member_id: str


@dataclass(frozen=True, slots=True)
class Disarm:
    """Take this member's alarm back."""

    member_id: str


SpaceAction = Compact | Defragment | Disarm


@dataclass(frozen=True, slots=True)
class SpaceDecision:
    """The one thing to do now, if any, and why in one sentence."""

    action: SpaceAction | None
    reason: str


def decide_space(view: SpaceView, now: float) -> SpaceDecision:
    """Return the next thing to do; see the module for what it never does."""
    away = [each.name for each in view.members if not each.is_sound]
    if away:
        what = (
            "etcd is full, and no room is made" if view.full_members else "nothing is defragmented"
        )
        return SpaceDecision(None, f"{what} before {', '.join(away)} votes and answers")
    if view.full_members:
        return _make_room(view, now)
    for each in _in_order(view):
        if _is_worth_it(view, each, now):
            return _defragment(each, "most of its file is free")
    return SpaceDecision(None, "etcd has room")


def _make_room(view: SpaceView, now: float) -> SpaceDecision:
    begun = view.compacted_at
    if begun is None or now - begun > AGAIN_SECONDS:
        return SpaceDecision(Compact(view.revision), "etcd is full: its history is given up")
    for each in _in_order(view):
        if each.defragmented_at is None or each.defragmented_at < begun:
            return _defragment(each, "etcd is full")
    if any(each.database_bytes > ROOM_SHARE * view.quota_bytes for each in view.members):
        return SpaceDecision(None, "etcd is full of what it holds now, not of its history")
    return SpaceDecision(Disarm(view.full_members[0]), "etcd has room again: the alarm is over")


def _defragment(member: MemberSpace, why: str) -> SpaceDecision:
    return SpaceDecision(Defragment(member.id), f"{member.name} is defragmented: {why}")


def _in_order(view: SpaceView) -> Iterator[MemberSpace]:
    yield from sorted(view.members, key=lambda each: (each.is_leading, each.id))


def _is_worth_it(view: SpaceView, member: MemberSpace, now: float) -> bool:
    is_early = member.defragmented_at is not None and now - member.defragmented_at < TIDY_SECONDS
    is_large = member.database_bytes >= WORTH_SHARE * view.quota_bytes
    return is_large and 2 * member.used_bytes <= member.database_bytes and not is_early
