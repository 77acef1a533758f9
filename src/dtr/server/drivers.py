"""What holds the registry's state: opened as the settings say, and proved by use at the start."""

import asyncio
import multiprocessing
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import structlog

from dtr.database import Database, open_database, open_postgresql
from dtr.model.errors import RegistryError, UnavailableError
from dtr.model.location import StorageLocation
from dtr.model.members import MembersFile
from dtr.registry.records import storage_in_use, use_storage
from dtr.server.datadir import MINIMUM_FREE_BYTES
from dtr.server.metrics import Metrics
from dtr.server.passwords import read_password
from dtr.server.recognition import recognise
from dtr.server.settings import Settings
from dtr.storage import (
    BlobCache,
    BlobStore,
    Credentials,
    Replication,
    StorageOptions,
    open_blob_store,
)

# Uploads never take the room that deletes and the next start need.
_LITTLE_ROOM: Final = 1 << 30
RESERVE_BYTES: Final = MINIMUM_FREE_BYTES + (16 << 20)
_CHECK_SECONDS: Final = 5
_LOG = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Drivers:
    """What holds the registry's state."""

    database: Database
    store: BlobStore
    cache: BlobCache | None = None


def open_drivers(settings: Settings, directory: Path, metrics: Metrics | None = None) -> Drivers:
    """Return the drivers that the settings name; what they leave out is in `directory`.

    Raises:
        InvalidError: the database URL is not one, or its password file cannot be read.

    """
    metrics = metrics or Metrics()
    return Drivers(
        open_metadata(settings, directory, metrics),
        open_blob_store(
            settings.storage.url,
            directory,
            storage_options(settings),
            observe=metrics.storage,
        ),
        open_cache(settings, directory, metrics),
    )


def open_cache(settings: Settings, directory: Path, metrics: Metrics) -> BlobCache | None:
    """Return the cache of blobs in the data directory, where the settings ask for one."""
    if not settings.storage.cache_bytes:
        return None
    return BlobCache(
        directory / "cache",
        settings.storage.cache_bytes,
        reserve_bytes=RESERVE_BYTES,
        observe=metrics.cache,
    )


def storage_options(settings: Settings) -> StorageOptions:
    """Return what the settings say about any storage."""
    return StorageOptions(
        sync_every_bytes=settings.storage.sync_every_bytes,
        # An embedded registry is alone: after a power cut it starts, and forgets the uploads'
        # digests. Where the metadata are elsewhere, they outlive this machine's memory.
        sync_uploads=bool(settings.database.url.get_secret_value()),
        reserve_bytes=RESERVE_BYTES,
        patience_seconds=settings.storage.wait_seconds,
        connections=settings.storage.connections,
        replication=_replication(settings),
    )


def has_own_disk(settings: Settings) -> bool:
    """Tell whether this server is a replica that keeps blobs on its own disk."""
    return settings.storage.url == "replicated:"


def _replication(settings: Settings) -> Replication | None:
    """Return how this replica knows the others; None where it is none."""
    own = settings.cluster
    if own.members_file is None or own.certificate is None or own.key is None or own.ca is None:
        return None
    return Replication(own.members_file, Credentials(own.certificate, own.key, own.ca))


def shortage_of_room(settings: Settings) -> str:
    """Return a sentence where pushes will soon find no room, or find none now; else nothing."""
    location = StorageLocation.parse(settings.storage.url) if settings.storage.url else None
    if location is not None and location.scheme not in {"file", "replicated"}:
        return ""
    is_elsewhere = location is not None and location.scheme == "file"
    place = location.directory if location and is_elsewhere else settings.data.directory
    free = shutil.disk_usage(place).free
    room, kept = (free - RESERVE_BYTES) >> 20, RESERVE_BYTES >> 20
    shown = f"The disk of {place} has {free >> 20} MiB free, of which {kept} MiB are kept"
    if room <= 0:
        return f"{shown} for deletions and starts: every push is refused until there is more room."
    if room < _LITTLE_ROOM >> 20:
        return f"{shown} for deletions and starts: what pushes more than {room} MiB is refused."
    return ""


def check_storage(settings: Settings, directory: Path) -> None:
    """Write, read, list and delete something in the storage that the settings name.

    In a process of its own: clients of object stores start threads, and this one is about to fork.

    Raises:
        UnavailableError: the message says which step failed and why.

    """
    _apart(lambda store: store.check_by_use(), settings, directory)


def recognise_storage(settings: Settings, directory: Path) -> None:
    """Make sure that it is the storage whose blobs the metadata speak of; see `recognition`.

    Raises:
        UnavailableError: it is another one, or something does not answer.

    """

    async def check(store: BlobStore) -> None:
        database = open_metadata(settings, directory, Metrics())
        try:
            await recognise(database, store, settings.storage.url)
            now = settings.storage.url
            # Looked up first: a replica may start while nothing can be written.
            if await database.read(storage_in_use) != now:
                before = await database.write(use_storage, now)
                if before not in {None, now}:
                    _LOG.warning("storage changed", before=before, now=now)
        finally:
            database.close()

    _apart(check, settings, directory)


def _apart(
    check: Callable[[BlobStore], Awaitable[None]], settings: Settings, directory: Path
) -> None:
    """Run `check` in a process of its own; what it raises is raised here."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(check, settings, directory, sender))
    process.start()
    sender.close()
    try:
        problem = str(receiver.recv())
    except EOFError:
        problem = "the check of the storage ended without an answer; the log may say why"
    process.join()
    if problem:
        raise UnavailableError(problem)


def _answer(
    check: Callable[[BlobStore], Awaitable[None]],
    settings: Settings,
    directory: Path,
    answers: Connection,
) -> None:
    async def run() -> None:
        patience = min(settings.storage.wait_seconds, _CHECK_SECONDS)
        options = replace(storage_options(settings), patience_seconds=patience)
        store = open_blob_store(settings.storage.url, directory, options)
        try:
            await check(store)
        finally:
            await store.close()

    try:
        asyncio.run(run())
    except RegistryError as error:
        answers.send(str(error))
    else:
        answers.send("")


def open_metadata(settings: Settings, directory: Path, metrics: Metrics) -> Database:
    """Return PostgreSQL where the settings name one, else SQLite in `directory`."""
    chosen, members = settings.database, settings.cluster.members_file
    wait = chosen.failover_wait_seconds
    url = chosen.url.get_secret_value()
    if not url:
        return open_database(directory / "dtr.db", wait_seconds=wait, observe=metrics.database)
    return open_postgresql(
        url,
        password=None if chosen.password_file is None else read_password(chosen.password_file),
        members=None if members is None else MembersFile(members),
        wait_seconds=wait,
        stale_after_seconds=chosen.stale_after_seconds,
        connections=chosen.connections,
        observe=metrics.database,
    )
