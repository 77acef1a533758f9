"""Whether a history of writes and reads of one register could have happened one after another.

A history is linearizable when each operation can be given an instant between its invocation and
its return at which it took effect, such that each read returns what was written last before it.
A write whose outcome nobody learned took effect at any time after its invocation, or never.

The events are replayed in the order of time with every state that the register may be in, together
with those running operations that took effect already: Wing and Gong's search, remembering what
was seen (Lowe, "Testing for linearizability", 2017, calls it just-in-time linearization).
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Value = Hashable | None
"""What the register holds; None before the first write."""

UNKNOWN = math.inf
"""The return of an operation whose outcome nobody learned."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A write of a value or a read that returned it, with its times on one clock."""

    is_write: bool
    value: Value
    invoked: float
    returned: float = UNKNOWN
    note: str = ""
    """Who did it, for people."""


@dataclass(frozen=True, slots=True)
class Violation:
    """The first return that no order explains."""

    operation: Operation
    possible: frozenset[Value]
    """What the register may have held just before."""
    running: tuple[Operation, ...]

    def __str__(self) -> str:
        """Say what happened, for a person."""
        kind = "write" if self.operation.is_write else "read"
        head = (
            f"the {kind} of {self.operation.value!r} that returned at"
            f" {self.operation.returned:.6f} fits no order: the register may have held"
            f" {sorted(map(repr, self.possible))}, and these ran:"
        )
        return "\n".join([head, *(f"  {each}" for each in self.running)])


class _State(NamedTuple):
    """One way in which it may have gone: the value, and who took effect without having returned."""

    value: Value
    effective: frozenset[int]


def check(history: Iterable[Operation]) -> Violation | None:
    """Return None when the history of one register is linearizable, else where it is not.

    Reads whose outcome is unknown say nothing and are left out.
    """
    operations = _telling(list(history))
    running: dict[int, Operation] = {}
    states = {_State(None, frozenset())}
    for _, is_return, number in _events(operations):
        operation = operations[number]
        if not is_return:
            running[number] = operation
            continue
        after = {
            _State(state.value, state.effective - {number})
            for state in _reachable(states, running)
            if number in state.effective
        }
        if not after:
            possible = frozenset(state.value for state in states)
            return Violation(operation, possible, tuple(running.values()))
        del running[number]
        states = after
    return None


def _telling(history: Sequence[Operation]) -> list[Operation]:
    """Leave out what changes nothing: unknown writes that no read saw, and unknown reads.

    Without them the search would go through all their orders, for they never return.
    """
    seen = {each.value for each in history if not each.is_write and each.returned != UNKNOWN}
    return [
        each
        for each in history
        if each.returned != UNKNOWN or (each.is_write and each.value in seen)
    ]


def _events(operations: Sequence[Operation]) -> list[tuple[float, bool, int]]:
    """Return (time, is a return, operation) in order; what meets at an instant is concurrent."""
    events = [(each.invoked, False, number) for number, each in enumerate(operations)]
    events += [
        (each.returned, True, number)
        for number, each in enumerate(operations)
        if each.returned != UNKNOWN
    ]
    return sorted(events)


def _reachable(states: set[_State], running: dict[int, Operation]) -> set[_State]:
    """Return the states that running operations may lead to by taking effect in any order."""
    found, left = set(states), list(states)
    while left:
        state = left.pop()
        for number, operation in running.items():
            if number in state.effective:
                continue
            if not operation.is_write and operation.value != state.value:
                continue
            after = _State(operation.value, state.effective | {number})
            if after not in found:
                found.add(after)
                left.append(after)
    return found
