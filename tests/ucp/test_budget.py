"""How much a caller may write."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtr.ucp.api import ApiError
from dtr.ucp.controller.budget import Rate, WriteBudget

RATE = Rate(burst=100, per_second=10)


@given(
    st.lists(st.tuples(st.floats(0, 60, allow_nan=False), st.integers(1, 100)), max_size=60),
)
def test_no_order_of_writes_gets_more_than_the_burst_and_the_rate(
    asked: list[tuple[float, int]],
) -> None:
    """However they are spread; and what is refused costs nothing."""
    now = 0.0
    budget = WriteBudget(RATE, lambda: now)
    spent = 0
    for pause, cost in asked:
        now += pause
        with suppress(ApiError):
            budget.spend("a", cost)
            spent += cost
        assert spent <= RATE.burst + now * RATE.per_second + 1e-6


def test_a_caller_that_waits_as_long_as_it_was_told_gets_through() -> None:
    """The message names whole seconds."""
    now = 0.0
    budget = WriteBudget(RATE, lambda: now)
    budget.spend("a", 100)
    budget.spend("b", 100)
    with pytest.raises(ApiError, match="Wait 5 s"):
        budget.spend("a", 50)
    now = 5.0
    budget.spend("a", 50)


def test_callers_without_number_take_no_room() -> None:
    """The one that has been silent longest is forgotten."""
    budget = WriteBudget(RATE, lambda: 0.0)
    for number in range(10_050):
        budget.spend(str(number), 1)
    assert len(budget._accounts) == 10_000
