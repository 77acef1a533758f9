"""Find the server that is wanted, and open connections to it."""

import asyncio
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

PRIMARY: Final = "read-write"
STANDBY: Final = "standby"
_ANY: Final = "any"
_OWN_SECONDS: Final = 0.25
"""How long the own replica's database may take before the others are asked, too."""
_LOOK_SECONDS: Final = 0.25
_WAIT_FOR_STANDBYS: Final = "SyncRepWaitForLSN"


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
        # By the function in the server, for the sentence may be in any language.
        if notice.source_function == _WAIT_FOR_STANDBYS:
            self.is_wait_cancelled = True


class Server:
    """Connects to whichever of the hosts has the wanted role at the moment.

    All hosts are asked at once: a machine that is gone without a word would cost two seconds each
    time if it stood first in the list. Only reads that a standby may answer go to the own replica
    first, primary or not: it is near, and there when the network is not. Which hosts there are is
    looked up for each connection.
    """

    def __init__(self, location: Location, role: str) -> None:
        self._location = location
        self._role = role

    def connect(self) -> Driver:
        """Return a new connection.

        Raises:
            psycopg.OperationalError: no host answered, or none has the role.

        """
        own, others = self._location.own_and_others
        if self._role != STANDBY:
            own, others = [], own + others
        candidates = [(host, _ANY) for host in own], [(host, self._role) for host in others]
        if len(own) + len(others) == 1:
            return _connect(*(candidates[0] or candidates[1])[0])
        return self._first_of(*candidates)

    def _first_of(self, near: "list[_Candidate]", others: "list[_Candidate]") -> Driver:
        """Return the first connection that works; `others` are asked when `near` is slow."""
        answers: queue.SimpleQueue[Driver | Exception] = queue.SimpleQueue()
        race = _Race(answers)
        race.start(near or others)
        waiting, later = (len(near), others) if near else (len(others), [])
        failures = []
        while waiting or later:
            try:
                answer = answers.get(timeout=_OWN_SECONDS if later else None)
            except queue.Empty:
                pass
            else:
                if isinstance(answer, psycopg.Connection):
                    race.finish()
                    return answer
                failures.append(str(answer).strip())
                waiting -= 1
            race.start(later)
            waiting, later = waiting + len(later), []
        raise LostError(f"no host is {self._role}: {'; '.join(failures) or 'there is none'}")

    async def connect_aside(self) -> Driver:
        """Connect on a thread of its own; whoever does not wait any more leaves nothing open.

        Not on the loop's threads: while a server is away they would all be waiting here.

        Raises:
            psycopg.OperationalError: as `connect`.

        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Driver] = loop.create_future()
        threading.Thread(
            target=self._connect_for, args=(loop, future), name="connect", daemon=True
        ).start()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().close()
            raise

    def _connect_for(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Driver]) -> None:
        try:
            answer: Driver | Exception = self.connect()
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            answer = error
        try:
            loop.call_soon_threadsafe(_hand_over, future, answer)
        except RuntimeError:  # the loop has ended
            _drop(answer)

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


_Candidate = tuple[dict[str, Any], str]
"""Parameters of a host, and which role it must have."""


class _Race:
    """Several connection attempts; the first is taken, and what comes later is closed."""

    def __init__(self, answers: "queue.SimpleQueue[Driver | Exception]") -> None:
        self._answers = answers
        self._lock = threading.Lock()
        self._is_over = False

    def start(self, candidates: list[_Candidate]) -> None:
        """Attempt each on a thread of its own."""
        for candidate in candidates:
            threading.Thread(target=self._run, args=candidate, name="connect", daemon=True).start()

    def _run(self, host: dict[str, Any], role: str) -> None:
        try:
            answer: Driver | Exception = _connect(host, role)
        except Exception as error:  # noqa: BLE001 - whoever waits must not wait for ever
            answer = error
        with self._lock:
            if not self._is_over:
                self._answers.put(answer)
                return
        _drop(answer)

    def finish(self) -> None:
        """Let all the others go."""
        with self._lock:
            self._is_over = True
        with contextlib.suppress(queue.Empty):
            while True:
                _drop(self._answers.get_nowait())


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


def discard(connection: Connection, driver: Driver) -> None:
    """Let a connection go that may not be used again."""
    with contextlib.suppress(psycopg.Error):
        driver.close()
    connection.invalidate()


def _hand_over(future: "asyncio.Future[Driver]", answer: Driver | Exception) -> None:
    if future.done():  # nobody waits any more
        _drop(answer)
    elif isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _drop(answer: Driver | Exception) -> None:
    if isinstance(answer, psycopg.Connection):
        answer.close()


def _connect(parameters: dict[str, Any], role: str) -> Driver:
    return Driver.connect(**{**parameters, "target_session_attrs": role})
