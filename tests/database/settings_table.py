"""Units of work on the one table that refers to nothing."""

from sqlalchemy import func, insert, select

from dtr.database import Reader, Writer
from dtr.database.schema import settings


class RefusedError(Exception):
    """What a unit raises on purpose."""


def put(writer: Writer, key: str, value: str = "") -> str:
    """Insert a row; fail where there is one already."""
    writer.execute(insert(settings).values(key=key, value=value))
    return key


def put_and_fail(writer: Writer, key: str) -> None:
    """Insert two rows and think better of it."""
    put(writer, key)
    put(writer, f"{key} again")
    raise RefusedError(key)


def put_twice(writer: Writer, key: str) -> None:
    """Meet the driver's own error half-way."""
    put(writer, key)
    put(writer, key)


def keys(reader: Reader) -> list[str]:
    """Return all keys in order."""
    return [row[0] for row in reader.execute(select(settings.c.key).order_by(settings.c.key))]


def count(reader: Reader) -> int:
    """Return how many rows there are."""
    return int(reader.scalar(select(func.count()).select_from(settings)))
