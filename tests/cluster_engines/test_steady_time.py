"""Patroni's seconds, where somebody sets the machine's clock."""

import time

import pytest

from dtr.cluster.engines.patroni_process.steady_time import count_seconds


def test_seconds_are_counted_from_the_time_of_day_whatever_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`tests/cluster/test_clocks.py` has Patroni itself meet a clock that jumps."""
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    monkeypatch.setattr(time, "monotonic", lambda: 50.0)
    count_seconds()
    assert time.time() == 1_000_000
    monkeypatch.setattr(time, "monotonic", lambda: 60.0)
    assert time.time() == 1_000_010
