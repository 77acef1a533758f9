"""Which connections are ended, and which go on: one moment after the other, no clock."""

from collections.abc import Iterable

import pytest

from dtr.asgi.connection_rules import (
    Activity,
    Connection,
    ConnectionLimits,
    Sample,
    excess,
)

LIMITS = ConnectionLimits(
    head_seconds=10,
    idle_seconds=60,
    whole_seconds=1000,
    least_bytes_per_second=100,
    most=1000,
    most_per_address=3,
)


def connection(
    address: str = "192.0.2.1", *, opened_at: float = 0, moved_at: float = 0, is_busy: bool = False
) -> Connection:
    """Return a connection."""
    return Connection(
        (address, "40000"), address, opened_at=opened_at, moved_at=moved_at, is_busy=is_busy
    )


def first_end(
    samples: Iterable[tuple[float, Sample]], activity: Activity, limits: ConnectionLimits = LIMITS
) -> float | None:
    """Return when a connection is ended; None where it never is."""
    followed = connection()
    for now, sample in samples:
        if followed.judge(sample, activity, now, limits):
            return now
    return None


def sending(acknowledged: int) -> Sample:
    """Return a sample of a connection with an answer on its way."""
    return Sample(received=500, acknowledged=acknowledged, is_sending=True)


def resting(received: int) -> Sample:
    """Return a sample of a connection with nothing on its way to the client."""
    return Sample(received=received, acknowledged=900, is_sending=False)


def test_a_new_connection_must_ask_something_soon() -> None:
    """Whatever it sends byte by byte, a TLS handshake included."""
    samples = ((float(now), resting(now)) for now in range(30))
    assert first_end(samples, Activity()) == 10


def test_a_kept_connection_may_rest() -> None:
    """The pause before the next request is not the time to send its head."""
    samples = ((float(now), resting(500)) for now in range(1000))
    assert first_end(samples, Activity(requests=1)) is None


def test_a_head_that_began_must_end() -> None:
    """Also on a connection that had requests: the time counts from the first byte seen."""
    samples = ((float(now), resting(500 if now < 100 else 500 + now)) for now in range(200))
    assert first_end(samples, Activity(requests=1)) == 110


def test_a_request_at_work_is_left_alone() -> None:
    """What it waits for, a database perhaps, has its own limit."""
    samples = ((float(now), resting(500)) for now in range(5000))
    assert first_end(samples, Activity(requests=1, active=1)) is None


@pytest.mark.parametrize(("rate", "end"), [(0, 60), (99, 60), (100, 1000), (10**6, 1000)])
def test_an_answer_must_be_read_at_a_least_rate_and_end(rate: int, end: float) -> None:
    """A download that is not read, or a byte now and then, does not stay for ever."""
    samples = ((float(now), sending(now * rate)) for now in range(2000))
    assert first_end(samples, Activity(requests=1)) == end


def test_an_answer_that_is_never_read_ends_also_without_a_least_rate() -> None:
    """Nothing at all is less than any rate."""
    limits = ConnectionLimits(least_bytes_per_second=0, idle_seconds=60)
    samples = ((float(now), sending(7)) for now in range(100))
    assert first_end(samples, Activity(requests=1), limits) == 60


def test_one_answer_after_the_other_is_not_one_long_answer() -> None:
    """A mirror that pulls for days on one connection is no client that is slow."""
    followed = connection()
    for now in range(5000):
        activity = Activity(requests=1 + now // 100)
        assert not followed.judge(sending(now * 10_000), activity, float(now), LIMITS)


def test_too_many_of_one_address_lose_the_longest_idle() -> None:
    """Those at work are kept, and other addresses are not touched."""
    working = [connection(is_busy=True) for _ in range(2)]
    idle = [connection(moved_at=float(at)) for at in (3, 1, 2)]
    others = [connection("192.0.2.2") for _ in range(3)]
    ended = {each for each, _ in excess([*working, *idle, *others], LIMITS)}
    assert ended == {idle[1], idle[2]}


def test_where_all_work_the_newest_give_way() -> None:
    """Whoever was there first is served to the end."""
    working = [connection(opened_at=float(at), is_busy=True) for at in range(5)]
    assert {each for each, _ in excess(working, LIMITS)} == set(working[3:])


def test_an_exempt_address_has_no_limit() -> None:
    """A proxy's connections are those of many clients."""
    found = [connection() for _ in range(50)]
    for each in found:
        each.is_exempt = True
    assert not list(excess(found, LIMITS))


def test_a_full_process_lets_go_of_the_longest_idle_of_all() -> None:
    """Whatever the addresses: a new client finds room."""
    limits = ConnectionLimits(most=100, most_per_address=0)
    found = [connection(f"192.0.2.{at}", moved_at=float(at)) for at in range(100)]
    ended = [each for each, _ in excess(found, limits)]
    assert ended == found[:25]
