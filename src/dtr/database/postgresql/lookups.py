"""Look-ups from one role of the database, over a connection that is replaced when it is lost."""

import asyncio
import time
from collections.abc import Mapping
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
        self._pipeline: Pipeline | None = None
        self._connecting: asyncio.Task[Pipeline] | None = None
        self._away_since: float | None = None

    @property
    def away_seconds(self) -> float:
        """How long nobody with the role has answered; 0 while somebody does."""
        if self._away_since is None:
            return 0.0
        pipeline = self._pipeline
        if (
            pipeline is not None
            and not pipeline.is_lost
            and pipeline.answered_at > self._away_since
        ):
            self._away_since = None
            return 0.0
        return time.monotonic() - self._away_since

    async def ask(
        self, lookup: Lookup, parameters: Mapping[str, Any], *, within_seconds: float
    ) -> list[Row]:
        """Return the rows; a lost connection is replaced and the query asked again.

        Raises:
            LostError: there was no answer `within_seconds`.

        """
        pipeline = self._pipeline
        if pipeline is not None and not pipeline.is_lost:
            future = pipeline.ask(lookup, parameters)
            try:
                if within_seconds >= _ANSWER_SECONDS:
                    return await future
                async with asyncio.timeout(within_seconds):
                    return await future
            except TimeoutError:
                self._note_away()
                raise LostError("no answer in time") from None
            except psycopg.Error as error:
                if not is_transient(error):
                    raise
                self._note_away()
        return await self._ask_again(lookup, parameters, within_seconds)

    def close(self) -> None:
        """Let go of the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._pipeline is not None:
            self._pipeline.close()

    async def _ask_again(
        self, lookup: Lookup, parameters: Mapping[str, Any], within_seconds: float
    ) -> list[Row]:
        try:
            async with asyncio.timeout(within_seconds):
                while True:
                    pipeline = await self._connected()
                    try:
                        rows = await pipeline.ask(lookup, parameters)
                    except psycopg.Error as error:
                        if not is_transient(error):
                            raise
                        self._note_away()
                        await asyncio.sleep(_SHORTEST_PAUSE_SECONDS)
                    else:
                        return rows
        except TimeoutError:
            raise LostError("no answer in time") from None

    async def _connected(self) -> Pipeline:
        """Return a sound connection; all who wait for one wait for the same attempt."""
        if self._pipeline is not None and not self._pipeline.is_lost:
            return self._pipeline
        return await asyncio.shield(self._reconnect())

    def _reconnect(self) -> asyncio.Task[Pipeline]:
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect(), name="connect to the database")
        return self._connecting

    def _lost(self) -> None:
        """Look for another connection at once: its coming is how a return is noticed."""
        self._note_away()
        self._reconnect()

    async def _connect(self) -> Pipeline:
        """Try until it works."""
        pause = _SHORTEST_PAUSE_SECONDS
        while True:
            try:
                driver = await asyncio.to_thread(self._server.connect)
            except psycopg.Error:
                self._note_away()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            else:
                self._pipeline = Pipeline(
                    driver, answer_seconds=_ANSWER_SECONDS, on_lost=self._lost
                )
                self._away_since = None
                return self._pipeline

    def _note_away(self) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
