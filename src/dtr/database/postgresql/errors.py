"""What PostgreSQL's errors mean to the registry; driver errors end here."""

import re
from typing import Final

import psycopg
from sqlalchemy.exc import DBAPIError

from dtr.model.errors import RegistryError, StorageFullError, UnavailableError

DRIVER_ERRORS: Final = (DBAPIError, psycopg.Error)

_CONNECTION_CLASSES: Final = ("08", "57P")
_ROLLED_BACK: Final = frozenset(
    {
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "25006",  # read_only_sql_transaction: this was the primary a moment ago
        "55P03",  # lock_not_available: whoever holds it may be frozen
        "25P03",  # idle_in_transaction_session_timeout: we were
        "57014",  # query_canceled, by an administrator
        "53200",  # out_of_memory, also of that for predicate locks
        "53300",  # too_many_connections
        "0A000",  # a prepared statement from before a migration
        "26000",  # a prepared statement that this connection does not have
    }
)
# Two units that both looked before either inserted: the second finds the row when it looks again.
_CONFLICTS: Final = frozenset({"23505", "23503"})
# Of the reasons for which a server sends a client away, those that time mends.
_PASSING: Final = (
    "starting up",
    "shutting down",
    "not yet accepting",
    "recovery",
    "too many",
    "terminating",
    "reserved for",
)
_CONNECTION_FAILED: Final = re.compile(
    r"failed: (?!connection to server)(.+?)(?= Is the server| connection to server| Multiple|$)"
)
_MEANINGS: Final = (
    ("password authentication failed", "it does not accept the password"),
    ("no password supplied", "it wants a password"),
    ("no pg_hba.conf entry", "its pg_hba.conf does not let this machine and user in"),
    ("connection refused", "nothing listens there"),
    ("no such file or directory", "nothing listens there"),
    ("timeout", "no answer in time"),
    ("timed out", "no answer in time"),
    ("could not translate host name", "its name is not known"),
    ("failed to resolve host", "its name is not known"),
    ("name or service not known", "its name is not known"),
    ("no route to host", "there is no way to it in the network"),
    ("network is unreachable", "there is no way to it in the network"),
    ("starting up", "it is starting up"),
    ("not yet accepting", "it is starting up"),
    ("shutting down", "it is shutting down"),
    ("terminating connection", "it ended the connection"),
    ("read-only transaction", "it is a standby"),
    ("too many connections", "it has no connection left"),
    ("too many clients", "it has no connection left"),
    ("reserved for", "it has no connection left"),
    ("certificate", "its TLS certificate cannot be verified"),
)
"""What libpq and servers say, in lower case, and what it means."""
_FULL: Final = frozenset({"53100"})


class LostError(psycopg.OperationalError):
    """No connection, or no answer on it in time."""


class UnknownOutcomeError(psycopg.OperationalError):
    """The commit was sent, and whether it took place is not known."""


def is_lost(error: BaseException) -> bool:
    """Tell whether the connection, or the server behind it, is gone."""
    origin = origin_of(error)
    state = sqlstate(error)
    if state is None:
        return isinstance(origin, psycopg.OperationalError | psycopg.InterfaceError)
    return state.startswith(_CONNECTION_CLASSES)


def is_conflict(error: BaseException) -> bool:
    """Tell whether another unit was first; a fault in a unit looks the same."""
    return sqlstate(error) in _CONFLICTS


def is_full(error: BaseException) -> bool:
    """Tell whether the server's disk is full, which time mends only where another takes over."""
    return sqlstate(error) in _FULL


def is_transient(error: BaseException) -> bool:
    """Tell whether the same unit may succeed a moment later."""
    return is_lost(error) or sqlstate(error) in _ROLLED_BACK


def translated(error: BaseException) -> Exception:
    """Return what to raise when there is no more patience."""
    state = sqlstate(error)
    if isinstance(error, RegistryError):
        return error
    if is_full(error):
        return StorageFullError("the disk of the metadata is full")
    if state in _CONFLICTS:
        return UnavailableError("what this refers to was changed at the same time; try again")
    if is_transient(error):
        return UnavailableError(f"the metadata does not answer: {plain_reason(error)}")
    origin = origin_of(error)
    assert isinstance(origin, Exception)  # noqa: S101
    return origin


def is_refusal(error: BaseException) -> bool:
    """Tell whether a server answered, and no server will answer otherwise by itself.

    libpq gives no code for a connection that was refused, only the server's sentence.
    """
    said = reason(error)
    return "FATAL:" in said and not any(word in said for word in _PASSING)


def reason(error: BaseException) -> str:
    """Return what libpq or the server said, on one line; neither repeats a password."""
    return " ".join(str(origin_of(error)).split()) or type(error).__name__


def plain_reason(error: BaseException) -> str:
    """Return why a server did not do what it was asked for, as the end of a sentence.

    libpq's sentences are for logs; what the server itself said is quoted where it is not known.

    >>> plain_reason(psycopg.OperationalError("connection failed: Connection refused Is the ..."))
    'nothing listens there'
    >>> plain_reason(psycopg.OperationalError('FATAL: role "dtr" does not exist'))
    'it answers: role "dtr" does not exist'
    """
    said = reason(error)
    # Of several addresses the last is what was tried last.
    found = _CONNECTION_FAILED.findall(said)
    last = str(found[-1]) if found else said
    for words, meaning in _MEANINGS:
        if words in last.lower():
            return meaning
    _, _, answer = last.rpartition("FATAL: ")
    if sqlstate(error) or answer != last:
        return f"it answers: {answer.strip().rstrip('.')}"
    if isinstance(error, LostError | UnknownOutcomeError) and not found:
        return said  # a sentence of ours
    return "it broke off the connection"


def sqlstate(error: BaseException) -> str | None:
    """Return the code of the server's error, or None where it did not send one."""
    return getattr(origin_of(error), "sqlstate", None)


def origin_of(error: BaseException) -> BaseException:
    """Return the driver's error behind SQLAlchemy's."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig
    return error
