"""What holds the registry's state: opened as the settings say, and proved by use at the start."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dtr.database import Database, open_database, open_postgresql
from dtr.server.datadir import MINIMUM_FREE_BYTES
from dtr.server.metrics import Metrics
from dtr.server.passwords import read_password
from dtr.server.settings import Settings
from dtr.storage import BlobStore, FilesystemBlobStore

# Uploads never take the room that deletes and the next start need.
_RESERVE_BYTES: Final = MINIMUM_FREE_BYTES + (16 << 20)


@dataclass(frozen=True, slots=True)
class Drivers:
    """What holds the registry's state."""

    database: Database
    store: BlobStore


def open_drivers(settings: Settings, directory: Path, metrics: Metrics | None = None) -> Drivers:
    """Return the drivers that the settings name; what they leave out is in `directory`.

    Raises:
        InvalidError: the database URL is not one, or its password file cannot be read.

    """
    metrics = metrics or Metrics()
    return Drivers(
        open_metadata(settings, directory, metrics),
        FilesystemBlobStore(
            directory,
            sync_every_bytes=settings.storage.sync_every_bytes,
            # An embedded registry is alone: after a power cut it starts, and forgets the uploads'
            # digests. Where the metadata are elsewhere, they outlive this machine's memory.
            sync_uploads=bool(settings.database.url),
            reserve_bytes=_RESERVE_BYTES,
            observe=metrics.storage,
        ),
    )


def open_metadata(
    settings: Settings, directory: Path, metrics: Metrics, *, wait_seconds: float | None = None
) -> Database:
    """Return PostgreSQL where the settings name one, else SQLite in `directory`."""
    chosen = settings.database
    wait = chosen.failover_wait_seconds if wait_seconds is None else wait_seconds
    url = chosen.url.get_secret_value()
    if not url:
        return open_database(directory / "dtr.db", wait_seconds=wait, observe=metrics.database)
    return open_postgresql(
        url,
        password=None if chosen.password_file is None else read_password(chosen.password_file),
        wait_seconds=wait,
        stale_after_seconds=chosen.stale_after_seconds,
        connections=chosen.connections,
        observe=metrics.database,
    )
