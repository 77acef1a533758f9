"""Who holds which keys of engines: what the leading controller does next about it, and why.

`decide_keys` is pure. Its invariants, which `tests/ucp/test_keys_plan.py` holds it to while steps
are interrupted and machines are away:

- Of any two that speak to each other, each trusts what the other shows, at every step.
- An etcd member reads whom it trusts when it starts, so a change of that restarts it. That happens
  to one member at a time, and only while all others answer and run with what they were told: etcd
  has its majority throughout, but where it has one member only.
- Whoever is no manager any more, and hosts no replica any more, is sent no key; and because it may
  have kept those that it had, the next generation begins.
- A member that hands on the lead first is not missed by the others.
- Nodes that run a version without keys of engines are waited for; nothing is begun without them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dtr.ucp.keyring import Keyring, Stage, etcd_trust, is_worn, realms_of
from dtr.ucp.model import NodeKeys

PATIENCE_SECONDS: Final = 600.0
"""A node that has not carried out a step for so long is not waited for: it asks for its keys as
soon as it is back, by another authority's leave. An etcd member that answers is waited for."""

SETTLE_SECONDS: Final = 10.0
"""A step lasts so long at least: a registry looks every five seconds whom it is to trust."""

_AFTER: Final = {Stage.TRUST: Stage.USE, Stage.USE: Stage.DROP, Stage.DROP: Stage.SETTLED}


@dataclass(frozen=True, slots=True)
class Holder:
    """A node that is to hold keys, or that does."""

    id: str
    name: str
    kinds: frozenset[str]
    """What it is to hold; nothing where it is no manager and hosts nothing, or is gone."""
    takes_keys: bool = True
    """Whether its agent knows of keys of engines."""
    revision: int = 0
    """Of the last `Wanted` that it has carried out."""
    etcd_trust: str = ""
    """Digest of what its etcd member runs with; empty while that is not ready."""
    keys: NodeKeys | None = None
    modified: int = 0
    """The revision at which `keys` were last changed."""


@dataclass(frozen=True, slots=True)
class Voter:
    """An etcd member."""

    id: str
    node_id: str
    is_live: bool
    is_leading: bool = False
    is_learner: bool = False


@dataclass(frozen=True, slots=True)
class KeysView:
    """One look at everything."""

    keyring: Keyring | None
    holders: tuple[Holder, ...]
    members: tuple[Voter, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """Make the first keyring of a control plane that ran without one."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Make the next generation."""


@dataclass(frozen=True, slots=True)
class Advance:
    """Take the next step with the generation that is on its way."""

    stage: Stage


@dataclass(frozen=True, slots=True)
class Issue:
    """Give a node the keys of its engines, as the stage has them."""

    holder: Holder


@dataclass(frozen=True, slots=True)
class IssueAgain:
    """Give a node other keys of the authorities that it has: more of them, or fresh ones."""

    holder: Holder


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Give a node no keys any more, or fewer, and remember that it had them."""

    holder: Holder


@dataclass(frozen=True, slots=True)
class HandOn:
    """Have another etcd member lead."""

    leader_id: str
    member_id: str


KeyAction = Begin | Renew | Advance | Issue | IssueAgain | Withdraw | HandOn


@dataclass(frozen=True, slots=True)
class KeyDecision:
    """What to do, and why in one sentence."""

    actions: tuple[KeyAction, ...]
    reason: str


def decide_keys(view: KeysView, now: float) -> KeyDecision:
    """Return the next thing to do; see the module for what it never does."""
    keyring = view.keyring
    if keyring is None:
        return _begin(view)
    if withdrawn := tuple(Withdraw(each) for each in view.holders if _holds_too_much(each)):
        return KeyDecision(withdrawn, "who left holds no keys any more")
    lacking = tuple(IssueAgain(each) for each in view.holders if _lacks(each, now))
    if lacking:
        return KeyDecision(lacking, "nodes get the keys that they lack")
    late = [each for each in view.holders if each.kinds and not _is_at(each, keyring)]
    if late:
        return _bring_along(view, late)
    return _next(view, keyring, now)


def _next(view: KeysView, keyring: Keyring, now: float) -> KeyDecision:
    """Return what comes when everybody was told what the stage wants."""
    if keyring.stage is Stage.SETTLED:
        if keyring.is_due or keyring.is_worn(now):
            return KeyDecision((Renew(),), "the keys of engines are renewed for all")
        return KeyDecision((), "every engine has its keys")
    waited_for = [each.name for each in _unconfirmed(view, keyring, now)]
    if waited_for:
        return KeyDecision((), f"waits until {', '.join(waited_for)} took the new keys")
    if 0 <= now - keyring.stage_since < SETTLE_SECONDS:
        return KeyDecision((), "engines read the new keys")
    stage = _AFTER[keyring.stage]
    return KeyDecision((Advance(stage),), f"the keys of engines: next is {stage}")


def _begin(view: KeysView) -> KeyDecision:
    holders = [each for each in view.holders if each.kinds]
    old = [each.name for each in holders if not each.takes_keys]
    if old:
        return KeyDecision(
            (),
            f"engines get keys of their own once {', '.join(old)} run this version and report",
        )
    if not holders:
        return KeyDecision((), "nobody holds keys")
    return KeyDecision((Begin(),), "engines get keys of their own")


def _holds_too_much(holder: Holder) -> bool:
    if holder.keys is None:
        return False
    return not holder.kinds or not set(holder.keys.pairs) <= holder.kinds


def _lacks(holder: Holder, now: float) -> bool:
    """Tell whether a node has too few keys, or some that end soon; whom it trusts is no matter."""
    keys = holder.keys
    if keys is None:
        return False
    is_short = not realms_of(holder.kinds) <= set(keys.authorities)
    return is_short or (
        bool(keys.pairs) and (set(keys.pairs) != holder.kinds or is_worn(keys, now))
    )


def _is_at(holder: Holder, keyring: Keyring) -> bool:
    """Whether a node was told what the stage wants."""
    keys = holder.keys
    if keys is None:
        return False
    trusted = tuple(each.number for each in keyring.trusted)
    return keys.generation == keyring.signing.number and keys.trusted == trusted


def _bring_along(view: KeysView, late: list[Holder]) -> KeyDecision:
    """Tell all that restart nothing at once, and etcd's members one after the other."""
    assert view.keyring is not None  # noqa: S101 - decided before
    members = {each.node_id for each in view.members}
    trusted = tuple(each.number for each in view.keyring.trusted)

    def restarts(holder: Holder) -> bool:
        return holder.id in members and (holder.keys is None or holder.keys.trusted != trusted)

    free = tuple(Issue(each) for each in late if not restarts(each))
    if free:
        return KeyDecision(free, f"the keys of engines: {view.keyring.stage}")
    why = ""
    for holder in sorted(late, key=lambda each: _leads(view, each)):
        why = _why_not_yet(view, holder)
        if not why:
            return _restart(view, holder)
    return KeyDecision((), f"etcd's members get new keys one by one; {why}")


def _leads(view: KeysView, holder: Holder) -> bool:
    return any(each.is_leading and each.node_id == holder.id for each in view.members)


def _why_not_yet(view: KeysView, holder: Holder) -> str:
    """Say why a member may not be restarted now; empty where it may."""
    holders = {each.id: each for each in view.holders}
    others = [each for each in view.members if each.node_id != holder.id]
    for other in others:
        there = holders.get(other.node_id)
        name = there.name if there else f"member {other.id}"
        if there is None or not other.is_live:
            return f"etcd on {name} does not answer"
        if not _runs_as_told(there):
            return f"etcd on {name} does not run with its own yet"
    voters = {each.node_id for each in view.members if not each.is_learner}
    rest = voters - {holder.id}
    if holder.id in voters and rest and 2 * len(rest) <= len(voters):
        return "two managers are no majority without one of them: join another, or demote one"
    return ""


def _runs_as_told(holder: Holder) -> bool:
    """Tell whether a member runs with its keys; one that was told nothing does."""
    return holder.keys is None or holder.etcd_trust == etcd_trust(holder.keys.authorities)


def _restart(view: KeysView, holder: Holder) -> KeyDecision:
    voters = [each for each in view.members if not each.is_learner]
    own = next(each for each in view.members if each.node_id == holder.id)
    others = [each.id for each in voters if each.node_id != holder.id]
    if own.is_leading and others:
        hand_on = HandOn(own.id, others[0])
        return KeyDecision((hand_on,), f"etcd on {holder.name} hands on the lead to be restarted")
    return KeyDecision((Issue(holder),), f"etcd on {holder.name} is restarted with new keys")


def _unconfirmed(view: KeysView, keyring: Keyring, now: float) -> Iterator[Holder]:
    """Return whoever was told what the stage wants, and has not done it."""
    is_patient = now - keyring.stage_since <= PATIENCE_SECONDS
    live = {each.node_id for each in view.members if each.is_live}
    members = {each.node_id for each in view.members}
    for holder in view.holders:
        if not holder.kinds or not (is_patient or holder.id in live):
            continue
        is_done = holder.revision >= holder.modified
        if holder.id in members:
            is_done = is_done and _runs_as_told(holder)
        if not is_done:
            yield holder
