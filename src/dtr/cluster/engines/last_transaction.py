"""Up to when a database's data goes, whatever happened to it since: for an emergency repair."""

import asyncio
import time
from typing import Final

import psycopg

from dtr.cluster.engines.patroni import DATABASE, DATABASE_ROLE, DatabasePlace

_EVERY_SECONDS: Final = 10.0
_LIMIT_SECONDS: Final = 1.0

# pg_last_committed_xact() and pg_last_xact_replay_timestamp() forget at a restart, which a primary
# that was demoted has behind it; the times of commits are on the disk. The newest numbers may be of
# transactions that run or were rolled back: these have none.
_QUERY: Final = """
SELECT extract(epoch FROM max(pg_catalog.pg_xact_commit_timestamp(
         ((newest - back) % 4294967296)::text::xid)))::float8
  FROM (SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint
       ) AS snapshot (newest),
       pg_catalog.generate_series(1, 500) AS back
 WHERE newest - back > 2
"""


class LastTransaction:
    """When the last transaction was committed; asked seldom, over the database's own socket."""

    def __init__(self, place: DatabasePlace) -> None:
        self._place = place
        self._port = 0
        self._password = ""
        self._asked_at: float | None = None
        self._found: float | None = None

    def use(self, port: int, password: str) -> None:
        """Say how the registry's role gets in."""
        self._port, self._password = port, password

    async def find(self) -> float | None:
        """Return seconds since the epoch, up to ten seconds old; None: it was never answered."""
        now = time.monotonic()
        if self._asked_at is None or now - self._asked_at >= _EVERY_SECONDS:
            self._asked_at = now
            try:
                async with asyncio.timeout(_LIMIT_SECONDS):
                    self._found = await self._ask()
            except (psycopg.Error, TimeoutError, OSError):
                pass  # what was found before is still in the data
        return self._found

    async def _ask(self) -> float | None:
        connection = await psycopg.AsyncConnection.connect(
            host=str(self._place.sockets),
            port=self._port,
            dbname=DATABASE,
            user=DATABASE_ROLE,
            password=self._password,
            connect_timeout=2,
            autocommit=True,
        )
        async with connection:
            row = await (await connection.execute(_QUERY)).fetchone()
        return float(row[0]) if row is not None and row[0] is not None else None
