"""Find the server that is wanted, and open connections to it."""

import contextlib
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Engine, create_engine

from dtr.database.postgresql.errors import LostError
from dtr.database.postgresql.location import Location
from dtr.database.units import driver_of

PRIMARY: Final = "read-write"
STANDBY: Final = "standby"
_LOOK_SECONDS: Final = 0.25
_CANCELLED_WAIT: Final = "canceling wait for synchronous replication"


class Driver(psycopg.Connection[tuple[Any, ...]]):
    """A connection that remembers whether a commit on it was not waited for.

    Where a standby does not answer and the wait is cancelled, the server says *success* and warns,
    though the transaction may be on one machine only: not what "acknowledged is durable" means.
    """

    is_wait_cancelled = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_notice_handler(self._take_notice)

    def _take_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        if _CANCELLED_WAIT in (notice.message_primary or ""):
            self.is_wait_cancelled = True


class Server:
    """Connects to whichever of the hosts has the wanted role at the moment.

    All hosts are asked at once: a machine that is gone without a word would cost two seconds each
    time if it stood first in the list.
    """

    def __init__(self, location: Location, role: str) -> None:
        self._location = location
        self._role = role

    def connect(self) -> Driver:
        """Return a new connection.

        Raises:
            psycopg.OperationalError: no host answered, or none has the role.

        """
        hosts = self._location.hosts
        if len(hosts) == 1:
            return _connect(hosts[0], self._role)
        answers: queue.SimpleQueue[Driver | psycopg.Error] = queue.SimpleQueue()
        race = _Race(answers)
        for host in hosts:
            threading.Thread(
                target=race.run, args=(host, self._role), name="connect", daemon=True
            ).start()
        failures = []
        for _ in hosts:
            answer = answers.get()
            if isinstance(answer, psycopg.Connection):
                race.finish()
                return answer
            failures.append(str(answer).strip())
        raise LostError(f"no host is {self._role}: {'; '.join(failures)}")

    def open_engine(self, size: int) -> Engine:
        """Return a pool of at most `size` connections, opened when they are needed."""
        return create_engine(
            "postgresql+psycopg://",
            creator=self.connect,
            pool_size=size,
            max_overflow=0,
            pool_timeout=60,
            use_native_hstore=False,
        )


class _Race:
    """Several connection attempts; the first is taken, and what comes later is closed."""

    def __init__(self, answers: "queue.SimpleQueue[Driver | psycopg.Error]") -> None:
        self._answers = answers
        self._lock = threading.Lock()
        self._is_over = False

    def run(self, host: dict[str, Any], role: str) -> None:
        try:
            answer: Driver | psycopg.Error = _connect(host, role)
        except psycopg.Error as error:
            answer = error
        with self._lock:
            if not self._is_over:
                self._answers.put(answer)
                return
        if isinstance(answer, psycopg.Connection):
            answer.close()

    def finish(self) -> None:
        with self._lock:
            self._is_over = True
        with contextlib.suppress(queue.Empty):
            while True:
                late = self._answers.get_nowait()
                if isinstance(late, psycopg.Connection):
                    late.close()


class Deadlines:
    """Breaks connections on which nothing came back in time.

    A server that is frozen, or a machine that was, keeps its connections open: no error comes by
    itself. libpq has no timeout of its own for that; shutting the socket down ends the wait.
    """

    def __init__(self) -> None:
        self._watched: dict[Driver, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def within(self, driver: Driver, seconds: float) -> Iterator[None]:
        """Break `driver` when the body takes longer; libpq then reports a lost connection."""
        with self._lock:
            self._watched[driver] = time.monotonic() + seconds
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._watched.pop(driver, None)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            now = time.monotonic()
            with self._lock:
                for driver, deadline in list(self._watched.items()):
                    if deadline <= now:
                        del self._watched[driver]
                        break_off(driver)


def break_off(driver: Driver) -> None:
    """End a connection under whoever waits for an answer on it."""
    with contextlib.suppress(OSError, psycopg.Error):
        duplicate = socket.socket(fileno=os.dup(driver.fileno()))
        with duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)


def discard(connection: Connection) -> None:
    """Let a connection go that may not be used again."""
    with contextlib.suppress(Exception):
        driver_of(connection).close()
    connection.invalidate()


def _connect(parameters: dict[str, Any], role: str) -> Driver:
    return Driver.connect(**{**parameters, "target_session_attrs": role})
