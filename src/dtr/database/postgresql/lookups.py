"""Look-ups from one role of the database, over a connection that is replaced when it is lost."""

import asyncio
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import psycopg

from dtr.database.postgresql.connections import Server
from dtr.database.postgresql.errors import LostError, is_transient
from dtr.database.postgresql.pipeline import Pipeline
from dtr.database.units import Lookup, Row

_ANSWER_SECONDS: Final = 4.0
_SHORTEST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 0.4


class Lookups:
    """What the requests of one process ask of one role: the primary, or a standby."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id = 0
        self._pipeline: Pipeline | None = None
        self._connecting: asyncio.Task[Pipeline] | None = None
        self._away_since: float | None = None
        self._hurry = asyncio.Event()

    @property
    def away_seconds(self) -> float:
        """How long those who asked have had no answer; 0 when nobody waits. Any thread may ask."""
        pipeline = self._pipeline
        if pipeline is not None and not pipeline.is_lost:
            return pipeline.silent_seconds
        since = self._away_since
        return 0.0 if since is None else time.monotonic() - since

    async def ask(
        self, lookup: Lookup, parameters: Mapping[str, Any], *, within_seconds: float
    ) -> list[Row]:
        """Return the rows; a lost connection is replaced and the query asked again.

        Raises:
            LostError: there was no answer `within_seconds`.

        """
        deadline = time.monotonic() + within_seconds
        pipeline = self._pipeline
        if pipeline is not None and not pipeline.is_lost:
            try:
                return await pipeline.ask(lookup, parameters, within_seconds=within_seconds)
            except psycopg.Error as error:
                if not is_transient(error) or time.monotonic() >= deadline:
                    raise
        return await self._ask_again(lookup, parameters, deadline)

    def note_there(self) -> None:
        """Take note that somebody with the role has answered elsewhere in this process.

        Whoever saw its own write must not be answered from what was before.
        """
        if self._away_since is not None:
            self._away_since = time.monotonic()
            self._hurry.set()

    def close(self) -> None:
        """Let go of the connection, on whatever thread."""
        loop = self._loop
        if loop is None:
            return
        if loop.is_running() and threading.get_ident() != self._thread_id:
            loop.call_soon_threadsafe(self._let_go)
        else:
            self._let_go()

    def _let_go(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._pipeline is not None:
            self._pipeline.close()

    async def _ask_again(
        self, lookup: Lookup, parameters: Mapping[str, Any], deadline: float
    ) -> list[Row]:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                while True:
                    pipeline = await self._connected()
                    within = deadline - time.monotonic()
                    try:
                        return await pipeline.ask(lookup, parameters, within_seconds=within)
                    except psycopg.Error as error:
                        if not is_transient(error):
                            raise
                    await asyncio.sleep(_SHORTEST_PAUSE_SECONDS)
        except TimeoutError:
            raise LostError("no answer in time") from None

    async def _connected(self) -> Pipeline:
        """Return a sound connection; all who wait for one wait for the same attempt."""
        if self._pipeline is not None and not self._pipeline.is_lost:
            return self._pipeline
        return await asyncio.shield(self._reconnect(time.monotonic()))

    def _reconnect(self, away_since: float) -> asyncio.Task[Pipeline]:
        if self._away_since is None:
            self._away_since = away_since
        if self._connecting is None or self._connecting.done():
            self._loop, self._thread_id = asyncio.get_running_loop(), threading.get_ident()
            self._connecting = self._loop.create_task(
                self._connect(), name="connect to the database"
            )
        return self._connecting

    def _lost(self, silent_seconds: float) -> None:
        """Look for another connection at once: its coming is how a return is noticed."""
        self._reconnect(time.monotonic() - silent_seconds)

    async def _connect(self) -> Pipeline:
        """Try until it works."""
        pause = _SHORTEST_PAUSE_SECONDS
        while True:
            try:
                self._pipeline = await self._open()
            except psycopg.Error:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._hurry.wait()
                self._hurry.clear()
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            else:
                self._away_since = None
                return self._pipeline

    async def _open(self) -> Pipeline:
        driver = await self._server.connect_aside()
        try:
            return Pipeline(driver, answer_seconds=_ANSWER_SECONDS, on_lost=self._lost)
        except psycopg.Error:
            driver.close()
            raise
