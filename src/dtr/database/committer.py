"""Group commit: units that wait at the same time share one transaction and one fsync.

A durable commit costs a disk flush, which is most of what a small push costs. The thread takes all
units that are waiting, runs each in a savepoint of its own, commits once, and only then tells any
of them that it is done: each is as durable, and as much all or nothing, as if it were alone.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from dtr.database.units import Writer

_MOST_UNITS = 64


@dataclass(slots=True)
class Waiting:
    """A unit on its way, and the future that its caller awaits."""

    unit: Callable[[Writer], Any]
    is_durable: bool
    future: "Future[Any]" = field(default_factory=Future)


class Transact(Protocol):
    """Runs a body in one transaction, retried whole."""

    def __call__(self, body: Callable[[Connection], Any], *, is_durable: bool) -> Any:
        """Return what `body` returned, once it is committed."""
        ...


class Committer:
    """One thread that runs units in the order in which they came."""

    def __init__(self, transact: Transact) -> None:
        self._transact = transact
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="database-writer", daemon=True)
        self._thread.start()

    def submit(self, unit: Callable[[Writer], Any], *, is_durable: bool) -> "Future[Any]":
        """Return a future that is done once the unit is committed or has failed."""
        waiting = Waiting(unit, is_durable)
        self._queue.put(waiting)
        return waiting.future

    def close(self) -> None:
        """Finish what is queued."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            while len(group) < _MOST_UNITS:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._queue.put(None)
                    break
                group.append(more)
            self._commit(group)

    def _commit(self, group: Sequence[Waiting]) -> None:
        if len(group) == 1:
            self._alone(group[0])
            return
        try:
            outcomes = self._transact(
                lambda connection: [_attempt(connection, waiting.unit) for waiting in group],
                is_durable=any(waiting.is_durable for waiting in group),
            )
        except Exception:  # noqa: BLE001 - whoever is to blame, each is told about its own unit
            for waiting in group:
                self._alone(waiting)
            return
        for waiting, (result, error) in zip(group, outcomes, strict=True):
            if error is None:
                waiting.future.set_result(result)
            else:
                waiting.future.set_exception(error)

    def _alone(self, waiting: Waiting) -> None:
        try:
            result = self._transact(
                lambda connection: waiting.unit(Writer(connection)), is_durable=waiting.is_durable
            )
        except BaseException as error:  # noqa: BLE001 - it belongs to the unit's caller
            waiting.future.set_exception(error)
        else:
            waiting.future.set_result(result)


def _attempt(connection: Connection, unit: Callable[[Writer], Any]) -> tuple[Any, Exception | None]:
    """Run one unit of a group; a failure of its own undoes only what it did.

    A driver's error may have ended the whole transaction: then the group is given up, and each unit
    is run alone.
    """
    driver = connection.connection.driver_connection
    assert driver is not None  # noqa: S101 - a connected connection has one
    driver.execute("SAVEPOINT unit")
    try:
        result = unit(Writer(connection))
    except DBAPIError:
        raise
    except Exception as error:  # noqa: BLE001 - it belongs to the unit's caller
        driver.execute("ROLLBACK TO unit")
        driver.execute("RELEASE unit")
        return None, error
    driver.execute("RELEASE unit")
    return result, None
