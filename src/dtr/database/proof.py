"""Prove by use that a database does what units of work need: write, read back, delete."""

import uuid
from collections.abc import Callable
from typing import Final

from sqlalchemy import delete, insert, select

from dtr.database.port import Database
from dtr.database.schema import settings
from dtr.database.units import Reader, Writer
from dtr.model.errors import InvalidError, RegistryError, UnavailableError

_ANY_TEXT: Final = "a\N{GREEK SMALL LETTER OMEGA}\N{GRINNING FACE}"
"""What annotations may hold, and a database in another encoding than UTF-8 may not."""


_REASONS: Final = {
    "42501": "permission is denied",
    "42P01": "a table is missing",
    "22021": "its encoding is not UTF-8",
    "22P05": "its encoding is not UTF-8",
}
"""By SQLSTATE, what PostgreSQL means."""


def prove(database: Database) -> None:
    """Write a row, read it back and delete it.

    Raises:
        InvalidError: one of the three did not work; the message says which, and why.
        UnavailableError: it did not work in time; likewise.

    """
    key = f"check {uuid.uuid4().hex} {_ANY_TEXT}"
    _step("write to", lambda: database.write_now(_put, key))
    if not _step("read from", lambda: database.read_now(_is_there, key)):
        raise InvalidError("the database does not return what was just written to it")
    _step("delete from", lambda: database.write_now(_remove, key))


def _step(what: str, action: Callable[[], bool]) -> bool:
    try:
        return action()
    except Exception as error:
        if isinstance(error, UnavailableError):
            raise UnavailableError(f"cannot {what} the database: {error}") from error
        message = f"cannot {what} the database: {_why(error)}. Does its user own the tables?"
        raise InvalidError(message) from error


def _why(error: Exception) -> str:
    if isinstance(error, RegistryError):
        return str(error)
    state = getattr(error, "sqlstate", None)
    return _REASONS.get(state, f"it refuses ({state})") if state else "it refuses"


def _put(writer: Writer, key: str) -> bool:
    if not writer.ran_before():
        writer.execute(insert(settings).values(key=key, value=""))
    return True


def _is_there(reader: Reader, key: str) -> bool:
    return reader.scalar(select(settings.c.key).where(settings.c.key == key)) is not None


def _remove(writer: Writer, key: str) -> bool:
    writer.execute(delete(settings).where(settings.c.key == key))
    return True
