"""The clock that a replica goes by: steady, and right where most machines say what is right."""

import asyncio
import json
from pathlib import Path

import pytest

from dtr.server.clock import MachineClock, SteadyClock, open_clock, read_correction
from dtr.server.clock import written_correction as correction_at

HOUR = 3600.0


class Machine:
    """A machine whose clock can be set, and what others say of it."""

    def __init__(self) -> None:
        self.passed = 100.0
        self.ahead = 0.0
        self.news: float | None = None
        self.clock = SteadyClock(lambda: self.news, machine=self.now, steady=lambda: self.passed)

    def now(self) -> float:
        """Give the time of day as the machine has it; it began at 1,000,000."""
        return 1_000_000 + self.passed - 100 + self.ahead

    def read(self, seconds: float = 1) -> float:
        """Let time pass, look every second, and give by how much the clock is wrong."""
        for _ in range(int(seconds)):
            self.passed += 1
            self.clock.look()
        return self.clock() - (self.now() - self.ahead)


def test_a_jump_is_not_followed_while_nobody_says_who_is_right() -> None:
    """Neither ahead nor back, however long it lasts."""
    machine = Machine()
    for ahead in (HOUR, -HOUR, 0.0):
        machine.ahead = ahead
        assert machine.clock() == machine.now() - ahead
        assert machine.read() == 0
        assert machine.read(3 * HOUR) == 0


def test_small_steps_are_followed() -> None:
    """NTP moves a clock slowly."""
    machine = Machine()
    for step in range(1, 10):
        machine.ahead = 4.0 * step
        assert machine.read() == machine.ahead


def test_a_clock_that_was_wrong_from_the_start_is_corrected_by_what_others_say() -> None:
    """Also when it is set right later."""
    machine = Machine()
    machine.ahead = HOUR
    machine.clock = SteadyClock(
        lambda: machine.news, machine=machine.now, steady=lambda: machine.passed
    )
    assert machine.read(60) == HOUR
    machine.news = -HOUR
    assert machine.read() == 0
    machine.ahead, machine.news = 0.0, None
    assert machine.read() == 0
    machine.news = 0.0
    assert machine.read(60) == 0


def test_all_clocks_that_are_set_right_together_are_followed() -> None:
    """When most machines have the new time, the old one was wrong."""
    machine = Machine()
    machine.news = 0.0
    machine.read()
    machine.ahead = HOUR
    machine.news = None
    assert machine.read() == 0
    machine.news = 0.0
    assert machine.read(14) == 0
    assert machine.read(3) == HOUR


def test_one_mistaken_word_changes_nothing() -> None:
    """However often there is one: a report that was under way for minutes can be a controller's."""
    machine = Machine()
    machine.news = 0.0
    machine.read()
    for right in (0.0, None, 0.0, None):
        machine.news = -300.0
        assert machine.read(12) == 0
        machine.news = right
        assert machine.read(60) == 0


def test_what_is_known_to_a_second_only_moves_the_clock_by_no_second() -> None:
    """A correction is measured over a network, anew each time."""
    machine = Machine()
    machine.ahead, machine.news = HOUR, -HOUR + 1.5
    machine.read()
    first = machine.clock() - machine.passed
    for noise in (-1.5, 0.7, 2.0):
        machine.news = -HOUR + noise
        machine.read()
        assert machine.clock() - machine.passed == first


def test_the_log_is_told_when_the_clocks_part_and_meet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once each."""
    monkeypatch.setattr("dtr.server.clock._LOOK_SECONDS", 0.01)

    async def run(machine: Machine) -> None:
        following = asyncio.create_task(machine.clock.follow())
        for ahead in (HOUR, 0.0):
            machine.ahead = ahead
            await asyncio.sleep(0.2)
        following.cancel()

    asyncio.run(run(Machine()))
    printed = capsys.readouterr().out
    assert printed.count("clock was set; it is not gone by") == 1
    assert printed.count("clock is right again") == 1


def test_a_correction_holds_for_the_clock_that_it_was_measured_for(tmp_path: Path) -> None:
    """Not after that was set, nor after the machine was off."""
    path = tmp_path / "clock.json"
    path.write_bytes(correction_at(1000.0, 1000.0 - HOUR))
    assert read_correction(path, lambda: 1010.0) == -HOUR
    for now in (1010.0 - HOUR, 1010.0 + HOUR, 1013.0):
        assert read_correction(path, lambda now=now: now) is None  # type: ignore[misc]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"at": "x"}', '{"at": null, "others_ahead_seconds": 1}']
)
def test_a_damaged_file_corrects_nothing(tmp_path: Path, content: str) -> None:
    """Nor does one that is not there."""
    path = tmp_path / "clock.json"
    assert read_correction(path) is None
    path.write_text(content)
    assert read_correction(path, lambda: 0.0) is None


def test_a_file_of_any_size_and_number_does_no_harm(tmp_path: Path) -> None:
    """It is read to a limit, and numbers that are none are no correction."""
    path = tmp_path / "clock.json"
    path.write_text(json.dumps({"at": 0, "others_ahead_seconds": 0, "more": "x" * 10_000}))
    assert read_correction(path, lambda: 0.0) is None
    for number in ("NaN", "Infinity", "1e400"):
        path.write_text(f'{{"at": 0, "others_ahead_seconds": {number}}}')
        assert read_correction(path, lambda: 0.0) is None


def test_only_a_replica_compares_its_clock(tmp_path: Path) -> None:
    """Elsewhere whoever sets the machine's clock is right."""
    assert isinstance(open_clock(None), MachineClock)
    assert isinstance(open_clock(tmp_path / "clock.json"), SteadyClock)
