"""When the fence ends PostgreSQL, and what it takes for PostgreSQL."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.processes import wait_until

from dtr.cluster.engines.fence import Fence, Postmaster, end_primary


def test_a_patroni_that_answers_now_and_then_is_no_reason() -> None:
    """Only an unbroken silence counts."""
    fence = Fence(silence_seconds=10)
    answers = [False, False, True] * 20
    assert not any(fence.observe(float(now), is_live=live) for now, live in enumerate(answers))


def test_a_start_has_the_whole_time() -> None:
    """Patroni that is being started does not answer at first."""
    fence = Fence(silence_seconds=10)
    seen = [fence.observe(100.0 + now, is_live=False) for now in range(12)]
    assert seen.index(True) == 10


def test_it_goes_on_saying_so() -> None:
    """PostgreSQL that somebody starts again is ended again."""
    fence = Fence(silence_seconds=3)
    seen = [fence.observe(float(now), is_live=False) for now in range(6)]
    assert seen == [False, False, False, True, True, True]


def test_a_machine_that_was_frozen_gives_patroni_time_after_it_thaws() -> None:
    """A minute in which nobody looked is no minute of silence."""
    fence = Fence(silence_seconds=10)
    fence.observe(0.0, is_live=True)
    assert not fence.observe(60.0, is_live=False)
    assert not fence.observe(61.0, is_live=True)


@contextmanager
def running(directory: Path, program: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of this name in this directory, which only sleeps."""
    copy = directory.parent / program
    shutil.copy(Path("/bin/sleep").resolve(), copy)
    process = subprocess.Popen([copy, "600"], cwd=directory)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Give a data directory."""
    path = tmp_path / "data"
    path.mkdir()
    return path


def recorded(data: Path, pid: int) -> None:
    """Write the file as PostgreSQL does."""
    (data / "postmaster.pid").write_text(f"{pid}\n{data}\n1700000000\n5432\n")


def test_a_primary_is_ended_at_once(data: Path) -> None:
    """By SIGQUIT, with its process id for the log."""
    with running(data, "postgres") as process:
        recorded(data, process.pid)
        assert end_primary(data) == process.pid
        assert process.wait(10) == -3


def test_a_standby_is_left_alone(data: Path) -> None:
    """It cannot take over without Patroni, and goes on answering reads."""
    (data / "standby.signal").touch()
    with running(data, "postgres") as process:
        recorded(data, process.pid)
        assert end_primary(data) is None
        assert process.poll() is None


def test_a_number_that_is_another_programs_by_now_is_left_alone(data: Path) -> None:
    """After a crash the file stays, and numbers are used again."""
    with running(data, "innocent") as process:
        recorded(data, process.pid)
        assert Postmaster.find(data) is None


def test_a_postgres_of_another_directory_is_left_alone(data: Path, tmp_path: Path) -> None:
    """Other databases of the machine are nobody's business."""
    other = tmp_path / "other"
    other.mkdir()
    with running(other, "postgres") as process:
        recorded(data, process.pid)
        assert Postmaster.find(data) is None


@pytest.mark.parametrize("content", ["", "-123\n", "x\n", "1\n", "999999999\n"])
def test_a_file_that_names_no_process_is_none(data: Path, content: str) -> None:
    """A single-user PostgreSQL writes a negative number."""
    (data / "postmaster.pid").write_text(content)
    assert Postmaster.find(data) is None


def test_an_end_is_seen(data: Path) -> None:
    """Through the descriptor, which nobody else can take over."""
    with running(data, "postgres") as process:
        recorded(data, process.pid)
        found = Postmaster.find(data)
        assert found is not None
        before = found.has_ended
        process.kill()
        wait_until(lambda: found.has_ended, "the end is seen", seconds=10)
        found.close()
        assert not before
