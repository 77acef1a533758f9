"""Room in etcd: the choices one by one, and what never happens whatever members answer."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtr.ucp.plan_space import (
    AGAIN_SECONDS,
    ROOM_SHARE,
    TIDY_SECONDS,
    Compact,
    Defragment,
    Disarm,
    MemberSpace,
    SpaceView,
    decide_space,
)

QUOTA = 1000
NOW = 10_000.0


def member(name: str, **changes: object) -> MemberSpace:
    """Give a member that has just begun."""
    good = MemberSpace(id=name, name=name, is_sound=True, is_leading=name == "a")
    return replace(good, **changes)  # type: ignore[arg-type]


def view(
    *members: MemberSpace, full: tuple[str, ...] = (), compacted: float | None = None
) -> SpaceView:
    """Give a look at these members."""
    return SpaceView(members, QUOTA, 77, full, compacted)


def test_a_file_that_is_mostly_free_is_defragmented_the_leaders_last() -> None:
    """One after the other."""
    large = {"database_bytes": 600, "used_bytes": 100}
    members = [member(name, **large) for name in "abc"]
    order = []
    for _ in members:
        action = decide_space(view(*members), NOW).action
        assert isinstance(action, Defragment)
        order.append(action.member_id)
        at = [each.id for each in members].index(action.member_id)
        members[at] = replace(members[at], database_bytes=100)
    assert order == ["b", "c", "a"]
    assert decide_space(view(*members), NOW).action is None


@pytest.mark.parametrize(
    "changes",
    [
        {"database_bytes": 200, "used_bytes": 1},
        {"database_bytes": 900, "used_bytes": 500},
        {"database_bytes": 900, "used_bytes": 1, "defragmented_at": NOW - TIDY_SECONDS + 1},
    ],
    ids=["it is small", "it is used", "it was lately"],
)
def test_what_is_not_worth_it_is_left(changes: dict[str, float]) -> None:
    """The member answers nothing meanwhile."""
    assert decide_space(view(member("a", **changes)), NOW).action is None


def test_while_a_member_is_away_nothing_is_done() -> None:
    """Not even where etcd is full: the others are needed."""
    members = (member("a", database_bytes=900), member("b"), member("c", is_sound=False))
    calm, full = decide_space(view(*members), NOW), decide_space(view(*members, full=("a",)), NOW)
    assert calm.action is None
    assert full.action is None
    assert full.reason == "etcd is full, and no room is made before c votes and answers"


def test_a_full_etcd_forgets_gives_back_and_takes_again() -> None:
    """In this order, every member, whatever it says to use."""
    full = {"database_bytes": 1000, "used_bytes": 1000}
    members = [member(name, **full) for name in "abc"]
    assert decide_space(view(*members, full=("b",)), NOW).action == Compact(77)
    for name in "bca":
        action = decide_space(view(*members, full=("b",), compacted=NOW), NOW + 1).action
        assert action == Defragment(name)
        at = "abc".index(name)
        members[at] = replace(members[at], database_bytes=50, defragmented_at=NOW + 1)
    done = decide_space(view(*members, full=("b",), compacted=NOW), NOW + 2)
    assert done.action == Disarm("b")


def test_an_alarm_of_a_member_that_was_removed_is_taken_back() -> None:
    """It would go on for ever."""
    found = view(member("a", defragmented_at=NOW), full=("gone",), compacted=NOW)
    assert decide_space(found, NOW).action == Disarm("gone")


def test_what_is_full_of_what_it_holds_stays_so_and_is_tried_again_later() -> None:
    """To take the alarm back would have it raised again."""
    lasting = member("a", database_bytes=900, used_bytes=890, defragmented_at=NOW)
    found = view(lasting, full=("a",), compacted=NOW)
    assert decide_space(found, NOW + 1).action is None
    assert "of what it holds now" in decide_space(found, NOW + 1).reason
    assert decide_space(found, NOW + AGAIN_SECONDS + 1).action == Compact(77)


SPACES = st.builds(
    MemberSpace,
    id=st.sampled_from("abcde"),
    name=st.just("x"),
    is_sound=st.sampled_from([True, True, True, False]),
    is_leading=st.booleans(),
    database_bytes=st.integers(0, QUOTA),
    used_bytes=st.integers(0, QUOTA),
    defragmented_at=st.none() | st.floats(0, NOW),
)


@given(
    members=st.lists(SPACES, min_size=1, max_size=5, unique_by=lambda each: each.id),
    full=st.sets(st.sampled_from("abcdef")),
    compacted=st.none() | st.floats(0, NOW),
)
def test_whatever_is_seen_nothing_is_risked(
    members: list[MemberSpace], full: set[str], compacted: float | None
) -> None:
    """One thing at a time, with all sound; nothing forgotten and no alarm lifted without need."""
    found = view(*members, full=tuple(sorted(full)), compacted=compacted)
    action = decide_space(found, NOW).action
    assert action is None or all(each.is_sound for each in members)
    match action:
        case Compact():
            assert full
        case Disarm(member_id):
            assert member_id in full
            assert all(each.database_bytes <= ROOM_SHARE * QUOTA for each in members)
        case Defragment(member_id):
            chosen = next(each for each in members if each.id == member_id)
            assert full or 2 * chosen.used_bytes <= chosen.database_bytes


@dataclass
class Disk:
    """What a member's file does: it grows by what is written, and shrinks when defragmented."""

    size: int = 0
    history: int = 0
    defragmented_at: float | None = None


@dataclass
class World:
    """Three members that are written to."""

    disks: dict[str, Disk] = field(default_factory=lambda: {name: Disk() for name in "abc"})
    is_full: bool = False
    compacted_at: float | None = None

    def write(self, count: int) -> None:
        """Write, as far as etcd lets it."""
        for _ in range(count):
            self.is_full |= any(each.size >= QUOTA for each in self.disks.values())
            for disk in self.disks.values() if not self.is_full else ():
                disk.size, disk.history = disk.size + 10, disk.history + 10

    def step(self, now: float) -> bool:
        """Do what is decided; return whether there was something."""
        members = [
            member(
                name,
                database_bytes=each.size,
                used_bytes=each.history,
                defragmented_at=each.defragmented_at,
            )
            for name, each in self.disks.items()
        ]
        full = ("a",) if self.is_full else ()
        match decide_space(view(*members, full=full, compacted=self.compacted_at), now).action:
            case Compact():
                self.compacted_at = now
                for disk in self.disks.values():
                    disk.history = 0
            case Defragment(name):
                self.disks[name] = Disk(self.disks[name].history, self.disks[name].history, now)
            case Disarm():
                self.is_full, self.compacted_at = False, None
            case None:
                return False
        return True


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8))
def test_whatever_is_written_etcd_takes_more_a_few_steps_later(writes: list[int]) -> None:
    """However often it runs full."""
    world, now = World(), NOW
    for count in writes:
        world.write(count)
        for _ in range(6):
            now += 1
            if not world.step(now):
                break
        assert not world.is_full
