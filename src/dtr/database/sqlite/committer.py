"""Group commit: units that wait at the same time share one transaction and one fsync.

A durable commit costs a disk flush, which is most of what a small push costs. The thread takes all
units that are waiting, runs each in a savepoint of its own, commits once, and only then tells any
of them that it is done: each is as durable, and as much all or nothing, as if it were alone.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast

import structlog
from sqlalchemy import Connection

from dtr.database.sqlite import connections as sqlite
from dtr.database.units import EngineName, Writer, driver_of

_LOG = structlog.get_logger()
_MOST_UNITS = 64

Outcome = tuple[Any, Exception | None]


@dataclass(slots=True)
class Waiting:
    """A unit on its way, and the future that its caller awaits on its own event loop."""

    unit: Callable[[Writer], Any]
    is_durable: bool
    future: asyncio.Future[Any]


class Transact(Protocol):
    """Runs a body in one transaction of a connection, retried whole."""

    def __call__(self, body: Callable[[], Any], connection: Connection, *, is_durable: bool) -> Any:
        """Return what `body` returned, once it is committed."""
        ...


class Committer:
    """One thread, with one connection, that runs units in the order in which they came."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        transact: Transact,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._transact = transact
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="database-writer", daemon=True)
        self._started = threading.Event()

    def submit(self, unit: Callable[[Writer], Any], *, is_durable: bool) -> asyncio.Future[Any]:
        """Return a future that is done once the unit is committed or has failed.

        A unit that has been queued runs, also where its caller is cancelled and waits no more.
        """
        if not self._started.is_set():
            self._started.set()
            self._thread.start()
        future = asyncio.get_running_loop().create_future()
        self._queue.put(Waiting(unit, is_durable, future))
        return future

    def close(self) -> None:
        """Finish what is queued."""
        if self._started.is_set():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            self._commit([first, *self._others()])

    def _others(self) -> Iterator[Waiting]:
        """Yield what is waiting besides, up to a group's size."""
        for _ in range(_MOST_UNITS - 1):
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                return
            if waiting is None:
                self._queue.put(None)
                return
            yield waiting

    def _commit(self, group: Sequence[Waiting]) -> None:
        try:
            with self._connect() as connection:
                outcomes = self._outcomes(group, connection)
        except Exception as error:  # noqa: BLE001 - it belongs to the units' callers
            outcomes = [(None, error)] * len(group)
        for waiting, outcome in zip(group, outcomes, strict=True):
            with suppress(RuntimeError):  # the caller's loop has ended, and nobody waits
                waiting.future.get_loop().call_soon_threadsafe(_tell, waiting.future, outcome)

    def _outcomes(self, group: Sequence[Waiting], connection: Connection) -> list[Outcome]:
        """Return what became of each unit; together if that works, else each alone."""
        if len(group) > 1:
            try:
                return cast(
                    "list[Outcome]",
                    self._transact(
                        lambda: [self._attempt(connection, waiting.unit) for waiting in group],
                        connection,
                        is_durable=any(waiting.is_durable for waiting in group),
                    ),
                )
            except Exception:  # noqa: BLE001 - whoever is to blame will say so when alone
                _LOG.debug("a group of units is run one by one", units=len(group))
        return [self._alone(waiting, connection) for waiting in group]

    def _alone(self, waiting: Waiting, connection: Connection) -> Outcome:
        try:
            writer = Writer(connection, EngineName.SQLITE, clock=self._clock)
            result = self._transact(
                lambda: waiting.unit(writer), connection, is_durable=waiting.is_durable
            )
        except Exception as error:  # noqa: BLE001 - it belongs to the unit's caller
            return None, error
        return result, None

    def _attempt(self, connection: Connection, unit: Callable[[Writer], Any]) -> Outcome:
        """Run one unit of a group; a failure of its own undoes only what it did.

        A driver's error may have ended the whole transaction: then the group is given up, and each
        unit is run alone.
        """
        driver = driver_of(connection)
        driver.execute("SAVEPOINT unit")
        try:
            result = unit(Writer(connection, EngineName.SQLITE, clock=self._clock))
        except sqlite.DRIVER_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 - it belongs to the unit's caller
            driver.execute("ROLLBACK TO unit")
            driver.execute("RELEASE unit")
            return None, error
        driver.execute("RELEASE unit")
        return result, None


def _tell(future: asyncio.Future[Any], outcome: Outcome) -> None:
    result, problem = outcome
    if future.cancelled():
        return
    if problem is None:
        future.set_result(result)
    else:
        future.set_exception(problem)
