"""The port of the metadata: units of work and look-ups, on whatever engine there is."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Engine

from dtr.database.units import EngineName, Lookup, Reader, Row, Writer

T = TypeVar("T")
P = ParamSpec("P")

Observe = Callable[[str, float], None]
"""Told of each operation, and how many seconds it took."""

stale_reads: ContextVar[bool] = ContextVar("stale_reads", default=False)
"""Set in a task whose look-ups were answered by a standby because no primary answered."""


class Database(ABC):
    """The metadata.

    `lookup` answers point queries; `read` and `write` run a unit of work on a thread. Every
    operation is retried whole, for as long as the driver was told to wait, when the engine is busy
    or away, or when it cannot be known whether a commit took place.

    Raises (all methods):
        UnavailableError: the database did not answer in that time.
        StorageFullError: its disk is full.

    """

    name: ClassVar[EngineName]
    engine: Engine
    """For the schema and the command line; units do not touch it."""
    clock: Callable[[], float] = staticmethod(time.time)
    """What units date by. Whoever puts a server together sets that of the registry (ADR 14): the
    machine's own may be an hour wrong."""

    @abstractmethod
    async def lookup(self, lookup: Lookup, parameters: Mapping[str, Any]) -> Row | None:
        """Return the first row of a point query."""

    @abstractmethod
    async def lookup_all(self, lookup: Lookup, parameters: Mapping[str, Any]) -> list[Row]:
        """Return all rows of a short, indexed query."""

    @abstractmethod
    def read(
        self, unit: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        """Run `unit` on one snapshot."""

    @abstractmethod
    def write(
        self, unit: Callable[Concatenate[Writer, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        """Run `unit` in a transaction that is durable when this returns."""

    @abstractmethod
    def write_soon(
        self, unit: Callable[Concatenate[Writer, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        """Run `unit` in a transaction that survives this process, but perhaps not a power cut.

        For what a client can do without: an upload that is under way. It is never out of order: a
        later durable transaction makes it durable too. Each statement stands for itself: what the
        unit has read may have changed when it writes.
        """

    @abstractmethod
    def read_now(
        self, unit: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `unit` on the calling thread; for the command line and for jobs."""

    @abstractmethod
    def write_now(
        self, unit: Callable[Concatenate[Writer, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `unit` durably on the calling thread; for the command line and for jobs."""

    @abstractmethod
    def changes(self, channel: str, *, poll_seconds: float) -> AsyncIterator[None]:
        """Yield when `Writer.notify(channel)` was committed anywhere, at least every poll.

        A notice may be lost with a connection, and an engine may have none: whoever listens looks
        for itself each time.
        """

    @abstractmethod
    def wait_until_there(
        self, *, seconds: float, is_enough: Callable[[Engine], bool] | None = None
    ) -> bool:
        """Return once the database lets us in; for a start, to say at once what is wrong.

        True: it can be written. Where only a copy of it answers that cannot be, `is_enough` is
        asked about that; as soon as it says yes, this returns False.

        Raises:
            InvalidError: it answered that it will not, and why.
            UnavailableError: it did not answer in time.

        """

    @abstractmethod
    def close(self) -> None:
        """Finish what is queued and let go."""
