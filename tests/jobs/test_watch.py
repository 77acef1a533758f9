"""Who is dead is told by heartbeats that stand still, whatever clocks say."""

from dataclasses import replace

from dtr.jobs import Job, State
from dtr.jobs.watch import Watch

JOB = Job(
    id=1,
    kind="any",
    parameters={},
    state=State.RUNNING,
    schedule=None,
    created_at=0,
    run_at=0,
    started_at=0,
    finished_at=None,
    deadline_seconds=60,
    attempts=1,
    most_attempts=3,
    runner="other",
    heartbeat_at=0,
    is_cancel_requested=False,
    progress="",
    error="",
)


def test_a_heartbeat_that_stands_still_for_the_limit_is_a_death() -> None:
    """Measured from when it was first seen."""
    watch = Watch(30, gap_seconds=10)
    assert [bool(watch.look([JOB], now)) for now in range(1000, 1040, 5)] == [False] * 6 + [
        True
    ] * 2


def test_a_heartbeat_that_moves_is_a_life() -> None:
    """Also one that goes backwards, by a clock that was set."""
    watch = Watch(30, gap_seconds=10)
    for now in range(0, 200, 5):
        assert not watch.look([replace(JOB, heartbeat_at=-now)], now)


def test_another_attempt_is_another_life() -> None:
    """What was seen of the one before does not count."""
    watch = Watch(30, gap_seconds=10)
    for now in range(0, 200, 5):
        assert not watch.look([replace(JOB, attempts=now // 25)], now)


def test_a_long_pause_counts_for_little() -> None:
    """Who could not look for an hour has seen nobody die."""
    watch = Watch(30, gap_seconds=10)
    watch.look([JOB], 0)
    assert not watch.look([JOB], 3600)
    assert not watch.look([JOB], 7200)
    assert watch.look([JOB], 10_800) == [JOB]
