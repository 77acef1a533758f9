"""What the suites rely on when they start, watch and end real programs."""

import os
import time
from pathlib import Path

import pytest
from tests.support.processes import (
    ProcessGroup,
    group_exists,
    requires,
    wait_until,
)


def sleeping_family(directory: Path) -> ProcessGroup:
    """Give a shell with a child that would both sleep for a long time."""
    return ProcessGroup(["/bin/sh", "-c", "sleep 600 & echo ready; wait"], log=directory / "log")


def is_ready(group: ProcessGroup) -> bool:
    """Whether the shell has started its child."""
    return "ready" in group.log_tail()


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_a_program_ends_with_everything_it_started(tmp_path: Path, ending: str) -> None:
    """No child outlives the program."""
    group = sleeping_family(tmp_path)
    group.start()
    group.wait_until_ready(lambda: is_ready(group))
    pid = group.pid
    assert group_exists(pid)
    getattr(group, ending)()
    assert not group.is_running
    assert not group_exists(pid)


@pytest.mark.measuring
def test_a_program_that_does_not_obey_is_killed(tmp_path: Path) -> None:
    """The deadline of a stop is kept, and the exit status tells."""
    command = ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]
    group = ProcessGroup(command, log=tmp_path / "log")
    group.start()
    group.wait_until_ready(lambda: is_ready(group))
    started = time.monotonic()
    assert group.stop(seconds=0.3) == -9
    assert time.monotonic() - started < 5


def test_a_program_that_ends_while_starting_shows_its_log(tmp_path: Path) -> None:
    """The reason is in the message, and at once, not after the deadline."""
    command = ["/bin/sh", "-c", "echo no such configuration; exit 3"]
    group = ProcessGroup(command, log=tmp_path / "log")
    group.start()
    with pytest.raises(RuntimeError, match="no such configuration"):
        group.wait_until_ready(lambda: False, seconds=20)


def test_a_program_that_is_never_ready_is_killed(tmp_path: Path) -> None:
    """The deadline of a start is kept, and nothing is left behind."""
    group = sleeping_family(tmp_path)
    group.start()
    with pytest.raises(TimeoutError, match="ready"):
        group.wait_until_ready(lambda: False, seconds=0.2)
    assert not group_exists(group.pid)


def test_a_program_can_be_started_again(tmp_path: Path) -> None:
    """The log goes on where it was."""
    group = ProcessGroup(["/bin/sh", "-c", "echo ready"], log=tmp_path / "log")
    for _ in range(2):
        group.start()
        wait_until(lambda: not group.is_running, "the end", seconds=10)
    assert group.log_tail() == "ready\nready"


def test_ending_what_never_ran_does_nothing(tmp_path: Path) -> None:
    """A fixture may clean up before it got anywhere."""
    group = sleeping_family(tmp_path)
    assert group.stop() == 0
    assert group.kill() == 0


def test_waiting_names_what_never_came() -> None:
    """The message says what the test waited for."""
    with pytest.raises(TimeoutError, match="the moon"):
        wait_until(lambda: False, "the moon", seconds=0.1)


def test_a_missing_program_skips_with_its_name() -> None:
    """The reason names every program that is not there, and only those."""
    with pytest.raises(pytest.skip.Exception) as skipped:
        requires("sh", "no-such-program")
    assert "no-such-program" in str(skipped.value)
    assert "sh," not in str(skipped.value)


def test_the_own_group_exists() -> None:
    """The search sees a group that is certainly there."""
    assert group_exists(os.getpgrp())
