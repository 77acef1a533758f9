"""Changing the schema under traffic: one process at a time, and never in anybody's way for long.

PostgreSQL queues everybody behind DDL that waits for its lock. So DDL waits for two seconds only,
and is tried again after a pause in which the queue is served.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import structlog
from sqlalchemy import Connection, Engine, text

from dtr.database.postgresql.errors import DRIVER_ERRORS, is_transient, reason, translated
from dtr.model.errors import UnavailableError

T = TypeVar("T")
_LOG = structlog.get_logger()

_LOCK_TIMEOUT: Final = "2s"
_LONGEST_PAUSE_SECONDS: Final = 2.0
_WAIT_SECONDS: Final = 600.0
_LOCK_OF_MIGRATION: Final = 0x647472  # "dtr" in ASCII; PostgreSQL has one for each database


@contextmanager
def only_migration(engine: Engine) -> Iterator[None]:
    """Hold the lock of migrations, for as long as the connection lasts.

    It is asked for again and again: a statement that waited for it would itself be what
    CREATE INDEX CONCURRENTLY waits for.
    """
    with engine.connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")  # noqa: PLW2901
        connection.detach()
        patiently(lambda: _take_lock(connection))
        yield


def apply(engine: Engine, upgrade: Callable[[Connection], None]) -> None:
    """Run `upgrade` on a connection of its own, whole, until nobody is in its way."""

    def attempt() -> None:
        with engine.connect() as connection:
            connection = connection.execution_options(  # noqa: PLW2901
                isolation_level="READ COMMITTED", postgresql_readonly=False
            )
            connection.exec_driver_sql(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
            connection.exec_driver_sql("SET idle_in_transaction_session_timeout = 0")
            connection.commit()
            try:
                upgrade(connection)
            finally:
                connection.invalidate()  # nobody else shall have it with these settings

    patiently(attempt)


def patiently(call: Callable[[], T]) -> T:
    """Return what `call` returns, tried again while others are in the way.

    Raises:
        UnavailableError: they were for ten minutes.

    """
    deadline = time.monotonic() + _WAIT_SECONDS
    pause = 0.1
    while True:
        try:
            return call()
        except (UnavailableError, *DRIVER_ERRORS) as error:
            may_pass = isinstance(error, UnavailableError) or is_transient(error)
            if not may_pass or time.monotonic() > deadline:
                raise translated(error) from error
            _LOG.info("schema change waits", reason=reason(error))
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def programs_connected(engine: Engine) -> dict[str, int]:
    """Return how many connections, but for this one, each revision's programs have open.

    They say it themselves (`APPLICATION_NAME`); one that has lost its connections at this very
    moment is not seen.
    """
    statement = text(
        "SELECT substring(application_name FROM 'dtr schema ([0-9]+)$') AS revision, count(*)"
        " FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() GROUP BY 1"
    )
    with engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(statement) if row[0] is not None}


def _take_lock(connection: Connection) -> None:
    held = connection.execute(text(f"SELECT pg_try_advisory_lock({_LOCK_OF_MIGRATION})")).scalar()
    if not held:
        raise UnavailableError("another process is changing the schema")
