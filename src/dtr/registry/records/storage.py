"""Statements about where the blobs are that the metadata speak of."""

from sqlalchemy import delete, insert, select

from dtr.database import Lookup, Reader, Writer
from dtr.database.schema import settings

_KEY = "storage.url"


STORAGE_IN_USE = Lookup(select(settings.c.value).where(settings.c.key == _KEY))
"""One row: the least that a database can be asked."""


def storage_in_use(reader: Reader) -> str | None:
    """Return the storage that a server last served from; None before the first start."""
    found = reader.scalar(select(settings.c.value).where(settings.c.key == _KEY))
    return None if found is None else str(found)


def use_storage(writer: Writer, url: str) -> str | None:
    """Note where a server serves from, without a credential; return where it was before."""
    before = storage_in_use(writer)
    if before != url:
        writer.execute(delete(settings).where(settings.c.key == _KEY))
        writer.execute(insert(settings).values(key=_KEY, value=url))
    return before
