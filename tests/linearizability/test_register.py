"""The checker of histories: right about known ones, and about all small ones."""

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.linearizability.register import UNKNOWN, Operation, check


def write(value: str, invoked: float, returned: float = UNKNOWN) -> Operation:
    """Return a write."""
    return Operation(True, value, invoked, returned)


def read(value: str | None, invoked: float, returned: float = UNKNOWN) -> Operation:
    """Return a read."""
    return Operation(False, value, invoked, returned)


GOOD = {
    "nothing": [],
    "one after another": [read(None, 0, 1), write("a", 2, 3), read("a", 4, 5)],
    "a read during a write sees either": [
        write("a", 0, 1),
        write("b", 2, 9),
        read("a", 3, 4),
        read("b", 5, 6),
    ],
    "what meets at an instant is concurrent": [write("a", 0, 1), read(None, 1, 2)],
    "an unknown write that happened late": [
        write("a", 0, 1),
        write("lost", 2),
        read("a", 3, 4),
        read("lost", 5, 6),
    ],
    "an unknown write that never happened": [write("a", 0, 1), write("b", 2), read("a", 3, 4)],
    "an unknown write that was overwritten": [
        write("b", 0),
        write("a", 1, 2),
        read("b", 3, 4),
        write("c", 5, 6),
        read("c", 7, 8),
    ],
    "two writes of one value": [
        write("a", 0, 1),
        write("b", 2, 3),
        write("a", 4, 5),
        read("a", 6, 7),
    ],
    "a read that never returned": [write("a", 0, 1), read("b", 2)],
}
BAD = {
    "a stale read": [write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)],
    "a value from nowhere": [write("a", 0, 1), read("b", 2, 3)],
    "a value from the future": [read("a", 0, 1), write("a", 2, 3)],
    "a lost write": [write("a", 0, 1), read(None, 2, 3)],
    "back and forth": [write("a", 0, 9), read("a", 1, 2), read(None, 3, 4)],
    "two readers who disagree on an order": [
        write("a", 0, 9),
        write("b", 0, 9),
        read("a", 10, 11),
        read("b", 12, 13),
    ],
    "a write that happened twice": [
        write("a", 0, 9),
        read("a", 1, 2),
        write("b", 3, 4),
        read("b", 5, 6),
        read("a", 10, 11),
    ],
    "an unknown write that happened twice": [
        write("a", 0),
        read("a", 1, 2),
        write("b", 3, 4),
        read("a", 5, 6),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_what_could_have_happened_passes(name: str) -> None:
    """Each of these has an order that explains it."""
    assert check(GOOD[name]) is None


@pytest.mark.parametrize("name", BAD)
def test_what_could_not_have_happened_is_found(name: str) -> None:
    """No order explains these; the report names the operation that does not fit."""
    violation = check(BAD[name])
    assert violation is not None
    assert violation.operation in BAD[name]
    assert "fits no order" in str(violation)


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """Make histories so small that all orders can be tried."""
    found = []
    for _ in range(draw(st.integers(0, 5))):
        invoked = draw(st.integers(0, 8))
        returned = draw(st.one_of(st.integers(invoked, 10), st.just(UNKNOWN)))
        is_write = draw(st.booleans())
        value = draw(st.sampled_from("ab" if is_write else ["a", "b", None]))
        found.append(Operation(is_write, value, invoked, returned))
    return found


def explained(history: Sequence[Operation]) -> bool:
    """Try every order of every subset that leaves out only what nobody learned the outcome of."""
    certain = [each for each in history if each.returned != UNKNOWN]
    unknown = [each for each in history if each.returned == UNKNOWN]
    return any(
        is_explanation(order)
        for count in range(len(unknown) + 1)
        for chosen in itertools.combinations(unknown, count)
        for order in itertools.permutations([*certain, *chosen])
    )


def is_explanation(order: Sequence[Operation]) -> bool:
    """Whether a register that did this one after another fits what was seen."""
    value = None
    for place, operation in enumerate(order):
        if any(later.returned < operation.invoked for later in order[place + 1 :]):
            return False
        if operation.is_write:
            value = operation.value
        elif operation.value != value:
            return False
    return True


@settings(max_examples=2000, deadline=None)
@given(histories())
def test_it_agrees_with_trying_every_order(history: list[Operation]) -> None:
    """The search says what brute force says."""
    assert (check(history) is None) == explained(history)


def simulated(seed: int, clients: int, count: int) -> list[Operation]:
    """Return what clients of a real register may have seen, some without learning outcomes."""
    generator = random.Random(seed)
    free_at = [0.0] * clients
    planned = []
    for number in range(count):
        client = generator.randrange(clients)
        invoked = free_at[client] + generator.random()
        effect = invoked + generator.random()
        free_at[client] = effect + generator.random()
        planned.append((effect, invoked, free_at[client], number))
    value: str | None = None
    history = []
    for _, invoked, returned, number in sorted(planned):
        is_write = generator.random() < 0.5
        if is_write:
            value = f"v{number}"
        outcome = UNKNOWN if generator.random() < 0.05 else returned
        history.append(Operation(is_write, value, invoked, outcome))
    return history


def test_a_long_history_is_checked_quickly() -> None:
    """Thousands of operations of many clients pass; one stale read among them is found."""
    history = simulated(7, clients=8, count=4000)
    assert check(history) is None
    written = [each for each in history if each.is_write and each.returned != UNKNOWN]
    last = max(each.returned for each in history if each.returned != UNKNOWN)
    stale = Operation(False, written[10].value, last + 1, last + 2)
    violation = check([*history, stale])
    assert violation is not None
    assert violation.operation == stale
