"""Make sure that storage is the one whose blobs the metadata speak of.

A server that is started with another bucket, or without the option that names it, would answer 201
to pushes that no other server can read. So the registry keeps a mark in its storage: a blob like
any other, which no repository links, and whose digest only the metadata know.
"""

import secrets
import uuid
from contextlib import suppress

from sqlalchemy import delete, insert, select

from dtr.database import Database, Reader, Writer
from dtr.database.schema import blobs, settings
from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import ContentDamagedError, InvalidError, UnavailableError
from dtr.registry import records
from dtr.registry.records import LIVE, Blob
from dtr.storage import BlobStore, Capability

_KEY = "storage.mark"


async def recognise(database: Database, store: BlobStore, name: str) -> None:
    """Find the registry's mark in its storage, called `name`; make it where there is none yet.

    Raises:
        InvalidError: the storage is another one.
        UnavailableError: the database or the storage does not answer.

    """
    mark = await database.read(_find_mark)
    if Capability.PLACEMENT in store.capabilities:
        await _recognise_replicas(store, mark, name)
        return
    if mark is None:
        known = await database.read(_find_any)
        if known is not None and not await _is_there(store, known):
            raise _stranger(name)
        mark = await database.write(_set_mark, await _made(store), database.clock())
    if not await _is_there(store, mark):
        raise _stranger(name)


async def _recognise_replicas(store: BlobStore, mark: Blob | None, name: str) -> None:
    """Look for the mark that a storage before this one had, which was to be copied here.

    Replicas make none: they know each other, and which of them hold what. A start waits for nobody:
    what the others hold is found when they answer.
    """
    with suppress(UnavailableError):
        if mark is not None and not await _is_there(store, mark):
            raise _stranger(name)


def _stranger(name: str) -> InvalidError:
    return InvalidError(
        f"the storage at {name or 'the data directory'} is not the one that holds this registry's "
        "blobs. Name that one with --storage, or bring the blobs here first with dtr storage copy."
    )


async def _made(store: BlobStore) -> Blob:
    content = f"This is a storage of a DTR registry: {secrets.token_hex(16)}\n".encode()
    digest = Digest.of(content)
    writer = await store.begin(str(uuid.uuid4()), Algorithm.SHA256)
    try:
        await writer.append(content)
        key = await writer.commit(digest)
        await writer.recorded()
    finally:
        await writer.close()
    return Blob(digest, len(content), key)


async def _is_there(store: BlobStore, blob: Blob) -> bool:
    try:
        return await store.size(blob.storage_key) == blob.size
    except ContentDamagedError:
        return False


def _marked(reader: Reader) -> str | None:
    found = reader.scalar(select(settings.c.value).where(settings.c.key == _KEY))
    return None if found is None else str(found)


def _find_mark(reader: Reader) -> Blob | None:
    digest = _marked(reader)
    found = records.find_blob(reader, Digest(digest)) if digest else None
    return found[0] if found is not None and found[1] == LIVE else None


def _find_any(reader: Reader) -> Blob | None:
    """Return the newest blob: a registry that has no mark yet is known by what it has."""
    row = reader.execute(
        select(blobs.c.digest, blobs.c.size, blobs.c.storage_key)
        .where(blobs.c.state == LIVE)
        .order_by(blobs.c.id.desc())
        .limit(1)
    ).first()
    return records.blob_of(row) if row else None


def _set_mark(writer: Writer, made: Blob, now: float) -> Blob:
    """Keep the mark, unless another server was first; return the one that is kept."""
    found = _find_mark(writer)
    if found is not None:
        return found
    records.store_blob(writer, made, now)
    writer.execute(delete(settings).where(settings.c.key == _KEY))
    writer.execute(insert(settings).values(key=_KEY, value=str(made.digest)))
    return made
