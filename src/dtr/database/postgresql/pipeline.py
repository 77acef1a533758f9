"""Point queries, many at once on one connection (PostgreSQL's pipeline mode).

A query for each round trip, awaited by each request alone, costs the event loop more than the rest
of a pull: a wake-up, a system call and a context switch each. Here all queries that requests ask
for in the same turn of the loop leave in one packet, prepared, and their rows come back in binary.
Measured on one core: 122,000 queries a second, where psycopg's own cursors do 11,000.
"""

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from dtr.database.postgresql.connections import Driver, break_off
from dtr.database.postgresql.errors import LostError, plain_reason
from dtr.database.units import Lookup, Row

_WORDS: Final = 0
_BINARY: Final = 1
_LOOK_SECONDS: Final = 0.1
_FLOAT8: Final = struct.Struct("!d")


def _integer(value: bytes) -> int:
    return int.from_bytes(value, "big", signed=True)


def _float(value: bytes) -> float:
    number: float = _FLOAT8.unpack(value)[0]
    return number


_DECODERS: Final[dict[int, Callable[[bytes], Any]]] = {
    16: lambda value: value == b"\1",  # bool
    17: bytes,  # bytea
    20: _integer,  # int8
    21: _integer,  # int2
    23: _integer,  # int4
    25: bytes.decode,  # text
    701: _float,  # float8
    1043: bytes.decode,  # varchar
}


class _Query:
    """A query on its way, or without a future the preparation of one."""

    __slots__ = ("future", "give_up_at", "lookup", "sent_at")

    def __init__(
        self,
        lookup: Lookup,
        future: asyncio.Future[list[Row]] | None,
        sent_at: float,
        give_up_at: float,
    ) -> None:
        self.lookup = lookup
        self.future = future
        self.sent_at = sent_at
        self.give_up_at = give_up_at


class Pipeline:
    """One connection of one event loop.

    A query is given up after its own `within_seconds`. An answer that does not come in
    `answer_seconds` is a lost connection: then everything that is under way on it fails with
    `LostError`, and the owner, told by `on_lost` how long nothing came, opens another.
    """

    def __init__(
        self, driver: Driver, *, answer_seconds: float, on_lost: Callable[[float], None]
    ) -> None:
        self._driver = driver
        self._raw = driver.pgconn
        self._answer_seconds = answer_seconds
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._names: dict[Lookup, bytes] = {}
        self._prepared = 0
        # What was sent, in order; None is the end of a batch.
        self._sent: deque[_Query | None] = deque()
        self._batch_is_open = False
        self._watch: asyncio.TimerHandle | None = None
        self.is_lost = False
        self._raw.nonblocking = 1
        self._raw.enter_pipeline_mode()
        self._socket = self._raw.socket
        self._loop.add_reader(self._socket, self._readable)

    @property
    def silent_seconds(self) -> float:
        """How long the oldest query has been waiting; 0 when none is. Any thread may ask."""
        with suppress(IndexError):
            oldest = self._sent[0] or self._sent[1]
            if oldest is not None:
                return time.monotonic() - oldest.sent_at
        return 0.0

    def ask(
        self, lookup: Lookup, parameters: Mapping[str, Any], *, within_seconds: float
    ) -> asyncio.Future[list[Row]]:
        """Send a query; the future holds its rows.

        Raises (the future):
            LostError: the connection is gone, or the answer did not come in time.
            psycopg.Error: the server refused the query.

        """
        future: asyncio.Future[list[Row]] = self._loop.create_future()
        rendered, names = lookup.numbered
        try:
            given = [
                parameters[name] if name in parameters else rendered.constants[name]
                for name in names
            ]
            values = [_encoded(value) for value in given]
        except UnsupportedTextError:
            future.set_result([])
            return future
        # Text as it is, which may hold anything; the rest in words, whatever the column's width.
        formats = [_BINARY if isinstance(value, str) else _WORDS for value in given]
        now = time.monotonic()
        query = _Query(lookup, future, now, now + within_seconds)
        try:
            self._send(query, rendered.sql, values, formats)
        except psycopg.Error as error:
            self._lose(error)
            _refuse(future, LostError(plain_reason(error)))
        return future

    def close(self) -> None:
        """Fail what is under way and close the connection."""
        self._on_lost = _nothing
        if self._loop.is_closed():
            self._driver.close()
            return
        self._lose(LostError("the pipeline was closed"))

    def _send(
        self,
        query: _Query,
        statement: str,
        values: Sequence[bytes | None],
        formats: Sequence[int],
    ) -> None:
        name = self._names.get(query.lookup)
        if name is None:
            # A name is never used again: whether its statement was prepared may not be known.
            name = self._names[query.lookup] = b"dtr%d" % self._prepared
            self._prepared += 1
            self._raw.send_prepare(name, statement.encode())
            self._sent.append(_Query(query.lookup, None, query.sent_at, query.give_up_at))
        self._raw.send_query_prepared(name, values, formats, result_format=_BINARY)
        self._sent.append(query)
        if not self._batch_is_open:
            self._batch_is_open = True
            self._loop.call_soon(self._end_batch)
        if self._watch is None:
            self._watch = self._loop.call_later(_LOOK_SECONDS, self._look)

    def _end_batch(self) -> None:
        self._batch_is_open = False
        if self.is_lost:
            return
        try:
            self._raw.pipeline_sync()
            self._sent.append(None)
            self._flush()
        except psycopg.Error as error:
            self._lose(error)

    def _flush(self) -> None:
        """Write what fits into the socket, and the rest when it takes more."""
        if self._raw.flush():
            self._loop.add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        try:
            if not self._raw.flush():
                self._loop.remove_writer(self._socket)
        except psycopg.Error as error:
            self._lose(error)

    def _readable(self) -> None:
        try:
            self._raw.consume_input()
            while self._sent and not self._raw.is_busy():
                result = self._raw.get_result()
                if result is not None:
                    self._take(result)
        except psycopg.Error as error:
            self._lose(error)
        else:
            if not self._sent and self._raw.status:  # ended by the server while nothing was asked
                self._lose(LostError("the server closed the connection"))

    def _take(self, result: PGresult) -> None:
        query = self._sent.popleft()
        if query is None:
            return
        status = result.status
        if query.future is None:
            if status != ExecStatus.COMMAND_OK:
                self._names.pop(query.lookup, None)
            asked = self._sent[0]  # what the statement was prepared for
            if status == ExecStatus.FATAL_ERROR and asked is not None and asked.future is not None:
                _refuse(asked.future, error_from_result(result))
            return
        if status == ExecStatus.FATAL_ERROR:
            # Perhaps the statement is not what it was when it was prepared (a migration).
            self._names.pop(query.lookup, None)
        if query.future.done():  # given up, or whoever asked has been cancelled
            return
        match status:
            case ExecStatus.TUPLES_OK:
                _settle(query.future, result)
            case ExecStatus.PIPELINE_ABORTED:
                query.future.set_exception(LostError("a query of the same batch failed"))
            case _:
                query.future.set_exception(error_from_result(result))

    def _look(self) -> None:
        """Notice, a few times a second, what is not answered in time."""
        self._watch = None
        if not self._sent:
            return
        if self.silent_seconds >= self._answer_seconds:
            self._lose(LostError("no answer in time"))
            return
        now = time.monotonic()
        for query in self._sent:
            if query is not None and query.future is not None and query.give_up_at <= now:
                _refuse(query.future, LostError("no answer in time"))
        self._watch = self._loop.call_later(_LOOK_SECONDS, self._look)

    def _lose(self, error: BaseException) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        silent_seconds = self.silent_seconds
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        if self._watch is not None:
            self._watch.cancel()
        for query in self._sent:
            if query is not None and query.future is not None:
                _refuse(query.future, LostError(plain_reason(error)))
        self._sent.clear()
        with suppress(psycopg.Error):
            break_off(self._driver)
            self._driver.close()
        self._on_lost(silent_seconds)


class UnsupportedTextError(ValueError):
    """PostgreSQL's text holds no NUL and no half of a surrogate pair: no row has such a value."""


def _nothing(_silent_seconds: float) -> None:
    """Nobody needs to know."""


def _encoded(value: Any) -> bytes | None:
    """Return a parameter as the protocol has it: text in UTF-8, anything else in words."""
    match value:
        case None:
            return None
        case str():
            if "\0" in value:
                raise UnsupportedTextError
            try:
                return value.encode()
            except UnicodeEncodeError:
                raise UnsupportedTextError from None
        case bool():
            return b"true" if value else b"false"
        case int() | float():
            return repr(value).encode()
        case _:
            raise TypeError(f"no look-up asks for a {type(value).__name__}")


def _refuse(future: asyncio.Future[list[Row]], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _settle(future: asyncio.Future[list[Row]], result: PGresult) -> None:
    try:
        future.set_result(_rows(result))
    except (KeyError, ValueError) as error:  # a type of column that no look-up has asked for yet
        future.set_exception(error)


def _rows(result: PGresult) -> list[Row]:
    columns = range(result.nfields)
    decoders = [_DECODERS[result.ftype(column)] for column in columns]
    get = result.get_value
    return [
        tuple(
            None if (value := get(row, column)) is None else decoders[column](value)
            for column in columns
        )
        for row in range(result.ntuples)
    ]
