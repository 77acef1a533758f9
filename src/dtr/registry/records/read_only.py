"""Statements about whether the registry takes pushes."""

from typing import Final

from sqlalchemy import bindparam, delete, insert, select

from dtr.database import Lookup, Reader, Writer
from dtr.database.schema import settings
from dtr.model.read_only import READ_ONLY_KEY, ReadOnlyMode

FIND_SETTING: Final = Lookup(select(settings.c.value).where(settings.c.key == bindparam("key")))
SETTLE_SECONDS: Final = 1.0
"""After so long the mode holds everywhere: processes ask twice a second, units of work that began
before it are over."""


def read_only_mode(reader: Reader) -> ReadOnlyMode | None:
    """Return the mode; None where pushes are taken."""
    found = reader.first(FIND_SETTING, {"key": READ_ONLY_KEY})
    return None if found is None else ReadOnlyMode.parse(found[0])


def require_writable(reader: Reader) -> None:
    """Return where content may be changed.

    Raises:
        ReadOnlyError: the registry serves pulls only.

    """
    mode = read_only_mode(reader)
    if mode is not None:
        raise mode.error


def set_read_only(writer: Writer, mode: ReadOnlyMode | None) -> None:
    """Turn the mode on, or off with None.

    Whatever clients write looks at it in its own transaction; `SETTLE_SECONDS` later every process
    refuses, or takes, what comes without asking.
    """
    writer.execute(delete(settings).where(settings.c.key == READ_ONLY_KEY))
    if mode is not None:
        writer.execute(insert(settings).values(key=READ_ONLY_KEY, value=str(mode)))
