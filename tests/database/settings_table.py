"""Units of work on the one table that refers to nothing."""

from sqlalchemy import delete, func, insert, select, update

from dtr.database import Reader, Writer
from dtr.database.schema import settings


class RefusedError(Exception):
    """What a unit raises on purpose."""


def put(writer: Writer, key: str, value: str = "") -> str:
    """Insert a row; fail where there is one already."""
    writer.execute(insert(settings).values(key=key, value=value))
    return key


def put_once(writer: Writer, key: str, value: str = "") -> str:
    """Insert a row, also where an earlier attempt's answer was lost."""
    return key if writer.ran_before() else put(writer, key, value)


def put_and_fail(writer: Writer, key: str) -> None:
    """Insert two rows and think better of it."""
    put(writer, key)
    put(writer, f"{key} again")
    raise RefusedError(key)


def put_twice(writer: Writer, key: str) -> None:
    """Meet the driver's own error half-way."""
    put(writer, key)
    put(writer, key)


def put_first(writer: Writer, key: str, value: str) -> bool:
    """Look, then insert where nobody has; tell whether this was first."""
    if writer.scalar(select(settings.c.key).where(settings.c.key == key)) is not None:
        return False
    put(writer, key, value)
    return True


def increment(writer: Writer, key: str) -> int:
    """Count one more, as whoever does not trust the database would: read, add, write."""
    before = value_of(writer, key)
    writer.execute(update(settings).where(settings.c.key == key).values(value=str(before + 1)))
    return before + 1


def increment_once(writer: Writer, key: str) -> None:
    """Count one more, also where an earlier attempt's answer was lost."""
    if not writer.ran_before():
        increment(writer, key)


def leave_unless_last(writer: Writer, key: str) -> bool:
    """Delete a row unless it is the only one: what two may not decide on the same snapshot."""
    if count(writer) < 2:
        return False
    writer.execute(delete(settings).where(settings.c.key == key))
    return True


def value_of(reader: Reader, key: str) -> int:
    """Return the number in a row."""
    return int(reader.scalar(select(settings.c.value).where(settings.c.key == key)))


def keys(reader: Reader) -> list[str]:
    """Return all keys in order."""
    return [row[0] for row in reader.execute(select(settings.c.key).order_by(settings.c.key))]


def count(reader: Reader) -> int:
    """Return how many rows there are."""
    return int(reader.scalar(select(func.count()).select_from(settings)))
