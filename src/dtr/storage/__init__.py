"""Blob storage: the `BlobStore` port and its drivers. Bytes only; what exists is metadata."""

from dtr.model.location import StorageLocation
from dtr.storage.cache import BlobCache
from dtr.storage.filesystem import FilesystemBlobStore
from dtr.storage.memory import MemoryBlobStore
from dtr.storage.opening import (
    StorageOptions,
    open_blob_store,
    open_own_disk,
    storage_directory,
)
from dtr.storage.port import BlobStore, BlobWriter, Capability, Progress, StoredBlob
from dtr.storage.replication import Credentials, Replication

__all__ = [
    "BlobCache",
    "BlobStore",
    "BlobWriter",
    "Capability",
    "Credentials",
    "FilesystemBlobStore",
    "MemoryBlobStore",
    "Progress",
    "Replication",
    "StorageLocation",
    "StorageOptions",
    "StoredBlob",
    "open_blob_store",
    "open_own_disk",
    "storage_directory",
]
