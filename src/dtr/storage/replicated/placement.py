"""Which replicas should hold a blob: pure, so that every replica comes to the same answer.

Invariant: bytes are acknowledged when `needed` replicas have them durably, and that is as many as
acknowledge a commit of the metadata. So whatever is left of the cluster when it still has all
acknowledged metadata has all acknowledged bytes, too.
"""

from collections.abc import Collection, Sequence
from hashlib import blake2b

from dtr.model.members import Member, Members, MemberState


def serving(members: Members) -> tuple[Member, ...]:
    """Return the replicas whose copies count."""
    return tuple(each for each in members.members if each.state is MemberState.SERVING)


def needed(members: Members) -> int:
    """Return how many replicas must have what is acknowledged: more than half of those that serve.

    That is `Members.majority`, except while one leaves: it is sent nothing new, and after it has
    left the majority is that of the others.
    """
    return len(serving(members)) // 2 + 1


def target(count: int, copies: int) -> int:
    """Return how many of `count` replicas shall hold a blob in the end: `copies`, or a majority.

    >>> [target(count, 3) for count in (1, 2, 3, 5, 7)]
    [1, 2, 3, 3, 4]
    """
    return max(min(copies, count), count // 2 + 1)


def order(key: str, replicas: Collection[str]) -> list[str]:
    """Return replicas in an order that depends on nothing but `key`, so that load spreads.

    >>> order("a", ["x", "y"]) == order("a", ["y", "x"])
    True
    """
    return sorted(replicas, key=lambda each: blake2b(f"{key} {each}".encode()).digest())


def is_wanted(key: str, holders: Collection[str], members: Members, copies: int) -> bool:
    """Tell whether this replica should fetch a blob that `holders` hold.

    Of those that lack it, as many as are missing fetch it, each knowing by itself that it is one.
    A holder that does not serve (it leaves, or is no member) does not count, and one that is down
    does: it comes back, or it is removed.
    """
    own = members.own
    if own is None or own.state is MemberState.DRAINING or own.id in holders:
        return False
    # One that joins prepares for the day on which it counts.
    counted = {each.id for each in serving(members)} | {own.id}
    missing = target(len(counted), copies) - len(counted.intersection(holders))
    return own.id in order(key, counted.difference(holders))[: max(missing, 0)]


def is_under_copied(holders: Collection[str], members: Members) -> bool:
    """Tell whether too few replicas hold a blob for it to be as safe as the metadata."""
    counted = serving(members)
    return sum(each.id in holders for each in counted) < needed(members)


def candidates(members: Members, *, first: Sequence[str] = ()) -> list[str]:
    """Return the replicas that may be sent new bytes, those of `first` before all others."""
    counted = [each.id for each in serving(members)]
    preferred = [each for each in dict.fromkeys(first) if each in counted]
    return preferred + [each for each in counted if each not in preferred]
