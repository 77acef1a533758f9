"""How often a unit is tried again, how long between, and how long an attempt may take."""

import time
from itertools import pairwise
from types import SimpleNamespace

import psycopg
import pytest
from psycopg import errors
from sqlalchemy.exc import OperationalError
from tests.support.postgresql import RunningPostgresql

from dtr.database.postgresql import attempts as module
from dtr.database.postgresql.attempts import Attempts
from dtr.database.postgresql.connections import PRIMARY, Deadlines, Server
from dtr.database.postgresql.errors import LostError, UnknownOutcomeError, translated
from dtr.database.postgresql.location import Location
from dtr.model.errors import StorageFullError, UnavailableError
from dtr.testing.registry import ManualClock

RETRIED = [
    LostError("gone"),
    errors.SerializationFailure(),
    errors.DeadlockDetected(),
    errors.ReadOnlySqlTransaction(),
    errors.AdminShutdown(),
    errors.CrashShutdown(),
    errors.CannotConnectNow(),
    errors.LockNotAvailable(),
    errors.IdleInTransactionSessionTimeout(),
    errors.QueryCanceled(),
    errors.TooManyConnections(),
    errors.OutOfMemory(),
    errors.ConnectionFailure(),
    psycopg.OperationalError("server closed the connection unexpectedly"),
    psycopg.InterfaceError("the connection is closed"),
    OperationalError("SELECT", {}, errors.AdminShutdown()),
]
FAULTS = [
    errors.UndefinedTable(),
    errors.SyntaxError(),
    errors.NumericValueOutOfRange(),
    errors.DiskFull(),
    errors.InsufficientPrivilege(),
    psycopg.ProgrammingError("a mistake"),
]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """Give the clock that attempts go by."""
    clock = ManualClock(1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.mark.parametrize("error", RETRIED, ids=lambda error: type(error).__name__)
def test_what_another_attempt_may_mend_is_tried_again(clock: ManualClock, error: Exception) -> None:
    """Until the patience ends, and then it is said that the database is away."""
    attempts = Attempts(10)
    assert attempts.pause_after(error) is not None
    clock.advance(10)
    assert attempts.pause_after(error) is None
    assert isinstance(translated(error), UnavailableError)


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_what_no_attempt_mends_is_said_at_once(error: Exception) -> None:
    """A fault stays the fault that it is; a full disk has an error of its own."""
    assert Attempts(10).pause_after(error) is None
    expected = StorageFullError if isinstance(error, errors.DiskFull) else type(error)
    assert isinstance(translated(error), expected)


def test_a_full_disk_is_waited_for_where_another_may_become_the_primary() -> None:
    """The cluster moves the primary off a full disk; alone, a database has nowhere to go."""
    assert Attempts(10, may_move=True).pause_after(errors.DiskFull()) is not None
    assert Attempts(10, may_move=False).pause_after(errors.DiskFull()) is None


def test_pauses_grow_but_never_long(clock: ManualClock) -> None:
    """The first is hardly one; a return is noticed within half a second."""
    attempts = Attempts(60)
    pauses = []
    while (pause := attempts.pause_after(LostError("gone"))) is not None:
        pauses.append(pause)
        clock.advance(pause)
    assert pauses[0] <= 0.005
    assert max(pauses) <= 0.4
    assert 58 < sum(pauses) <= 60
    assert all(later > earlier / 2 for earlier, later in pairwise(pauses))


def test_no_pause_outlasts_the_patience(clock: ManualClock) -> None:
    """An attempt that would begin too late is not waited for."""
    attempts = Attempts(0.004)
    assert attempts.pause_after(LostError("gone")) is None
    attempts = Attempts(1)
    clock.advance(0.999)
    assert attempts.pause_after(LostError("gone")) is None


def test_a_conflict_that_does_not_end_is_a_fault() -> None:
    """The row that was in the way is there for good; nobody waits a minute for it to go."""
    attempts = Attempts(3600)
    tries = 0
    while attempts.pause_after(errors.UniqueViolation()) is not None:
        tries += 1
    assert tries == 10
    assert isinstance(translated(errors.UniqueViolation()), UnavailableError)


def test_only_a_lost_commit_may_have_run() -> None:
    """A unit that was undone for certain does not ask what it did before."""
    attempts = Attempts(10)
    for error in (LostError("gone"), errors.SerializationFailure(), errors.AdminShutdown()):
        attempts.pause_after(error)
        assert not attempts.is_outcome_unknown
    attempts.pause_after(UnknownOutcomeError("lost"))
    attempts.pause_after(LostError("gone"))
    assert attempts.is_outcome_unknown
    assert attempts.unit_id != Attempts(10).unit_id


def test_only_an_attempt_that_took_long_makes_the_next_more_patient(clock: ManualClock) -> None:
    """Connections that are refused say nothing about how slow a unit is."""
    attempts = Attempts(1000)
    for _ in range(20):
        attempts.pause_after(LostError("refused"))
    assert attempts.begin() == 4
    clock.advance(3.9)
    attempts.pause_after(LostError("killed in the middle"))
    assert attempts.begin() == 4
    for expected in (8, 16, 32, 60, 60):
        clock.advance(100)
        attempts.pause_after(LostError("frozen"))
        attempts.pause_after(LostError("refused"))
        assert attempts.begin() == expected
    clock.advance(100)
    attempts.pause_after(errors.SerializationFailure())
    assert attempts.begin() == 60


@pytest.mark.measuring
@pytest.mark.postgresql
def test_a_connection_is_broken_when_its_time_is_over(postgresql: RunningPostgresql) -> None:
    """And not when the answer came before."""
    server = Server(Location.parse(postgresql.url), PRIMARY)
    deadlines = Deadlines()
    with server.connect() as driver:
        with deadlines.within(driver, 5):
            driver.execute("SELECT pg_sleep(0.1)")
        with deadlines.within(driver, 0.2):
            pass
        time.sleep(0.5)
        driver.execute("SELECT 1")
    driver = server.connect()
    started = time.monotonic()
    with pytest.raises(psycopg.OperationalError), deadlines.within(driver, 0.3):
        driver.execute("SELECT pg_sleep(10)")
    assert 0.2 < time.monotonic() - started < 3
    assert driver.closed
    driver.close()
    deadlines.close()
