"""A wish that the demonstration end is heard once, and never where that would do harm."""

import signal
from collections.abc import Iterator

import pytest
from demo.interrupts import Interrupts

WISHES = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    """Give them while they listen."""
    with Interrupts() as listening:
        yield listening


@pytest.mark.parametrize("wish", WISHES)
def test_the_first_wish_is_heard_and_no_other(interrupts: Interrupts, wish: signal.Signals) -> None:
    """Whoever presses Ctrl-C again does not interrupt the cleaning up."""
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(wish)
    assert interrupts.has_come
    for again in WISHES:
        signal.raise_signal(again)


def test_a_wish_waits_for_what_must_not_be_left_half_done(interrupts: Interrupts) -> None:
    """It is heard when that is done."""
    done = []

    def make() -> None:
        with interrupts.held():
            signal.raise_signal(signal.SIGINT)
            done.append("the machine is made")

    with pytest.raises(KeyboardInterrupt):
        make()
    assert done == ["the machine is made"]


def test_who_listened_before_listens_again() -> None:
    """The end of the demonstration is not the end of the process."""
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        interrupts.refuse()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before
