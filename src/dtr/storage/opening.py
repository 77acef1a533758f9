"""Which driver a storage URL means.

Drivers that need a library of their own are imported when they are opened: aiohttp and obstore are
15 MB of each process.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dtr.model.errors import InvalidError
from dtr.model.location import StorageLocation
from dtr.storage.filesystem import FilesystemBlobStore
from dtr.storage.port import BlobStore
from dtr.storage.replication import Replication


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """How a driver goes about it, as far as it can."""

    sync_every_bytes: int = 32 << 20
    sync_uploads: bool = False
    """Whether uploads in the data directory survive a power cut before they are committed."""
    reserve_bytes: int = 0
    patience_seconds: float = 60
    connections: int = 64
    replication: Replication | None = None
    """With `replicated:`, how this replica knows the others."""


def open_blob_store(
    url: str,
    directory: Path,
    options: StorageOptions = StorageOptions(),
    *,
    observe: Callable[[str, float], None] | None = None,
) -> BlobStore:
    """Return the store at `url`; in `directory`, the data directory, where it is empty.

    Nothing is asked of an object store yet: `check_by_use` does.

    Raises:
        InvalidError: the URL means nothing, holds a credential, or names a directory that is not
            there: one that we made might be below a mount point whose mount is missing.

    """
    if not url:
        return FilesystemBlobStore(
            directory,
            sync_every_bytes=options.sync_every_bytes,
            sync_uploads=options.sync_uploads,
            reserve_bytes=options.reserve_bytes,
            observe=observe,
        )
    try:
        location = StorageLocation.parse(url)
    except ValueError as error:
        raise InvalidError(f"the storage URL {error}") from None
    if location.scheme == "replicated":
        return _replicated(directory, options, observe)
    if location.scheme != "file":
        from dtr.storage.objects import ObjectBlobStore  # noqa: PLC0415

        return ObjectBlobStore(
            location,
            patience_seconds=options.patience_seconds,
            connections=options.connections,
            observe=observe,
        )
    found = storage_directory(location)
    try:
        return FilesystemBlobStore(
            found,
            sync_every_bytes=options.sync_every_bytes,
            reserve_bytes=options.reserve_bytes,
            observe=observe,
        )
    except OSError as error:
        raise InvalidError(
            f"the storage directory {location.directory} cannot be used: {error.strerror}"
        ) from None


def storage_directory(location: StorageLocation) -> Path:
    """Return the directory of a `file:///` location.

    Raises:
        InvalidError: it is not there.

    """
    if not location.directory.is_dir():
        raise InvalidError(
            f"the storage directory {location.directory} is not there; make it, or mount it"
        )
    return location.directory


def _replicated(
    directory: Path, options: StorageOptions, observe: Callable[[str, float], None] | None
) -> BlobStore:
    """Return the store on this replica's disk and those of the others."""
    if options.replication is None:
        raise InvalidError(
            "the storage URL replicated: needs the other replicas: set cluster.members_file, "
            "cluster.certificate, cluster.key and cluster.ca, as dtr join does"
        )
    from dtr.storage.replicated import Pace, ReplicatedBlobStore  # noqa: PLC0415

    return ReplicatedBlobStore(
        open_own_disk(directory, options, observe=observe),
        options.replication,
        pace=Pace(patience_seconds=options.patience_seconds),
        connections=options.connections,
        observe=observe,
    )


def open_own_disk(
    directory: Path,
    options: StorageOptions,
    *,
    observe: Callable[[str, float], None] | None = None,
) -> FilesystemBlobStore:
    """Return this replica's own disk; what was acknowledged to another replica is durable."""
    return FilesystemBlobStore(
        directory,
        sync_every_bytes=options.sync_every_bytes,
        reserve_bytes=options.reserve_bytes,
        observe=observe,
    )
