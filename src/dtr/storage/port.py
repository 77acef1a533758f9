"""The port that every storage driver implements; `testing/blobs.py` is its conformance suite.

A key names committed bytes. A driver makes a key when an upload commits, the metadata keeps it, and
no key is ever given twice: bytes that are being deleted and the same content that is being pushed
again never meet.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Protocol

from dtr.model.digest import Algorithm, Digest

CHUNK_BYTES = 1 << 20
"""How many bytes streams move at a time."""


class Capability(Enum):
    """What a driver can do beyond the port's promises."""

    LOCAL_PATH = auto()
    """`path` names a file that the server may send whole without reading it."""
    REDIRECT = auto()
    """`redirect_url` names a URL at which a client can read the bytes for itself."""
    LOCKS_UPLOADS = auto()
    """Storage itself keeps a second writer of an upload out, as long as the first is open.

    Without it any number may be open; what each writes is its own, and what the upload consists of
    is decided by who records its progress first, in place of the very progress that it began at.
    """
    EARLY_KEYS = auto()
    """What an upload flushed is already among what has a key.

    `walk` finds it there, although nobody was given its key.
    """
    PLACEMENT = auto()
    """Replicas hold blobs on their own disks: a writer names the `holders` of what it committed.

    The metadata keep who holds what, and are told with the blob.
    """


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an upload is: `offset` bytes are flushed.

    `digest` is theirs where one process saw all of them, else None; it lets whoever commits skip
    reading them again. `state` is what the driver needs to know to go on, in words of its own.
    """

    offset: int = 0
    digest: Digest | None = None
    state: str = ""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """One object that storage holds, as `walk` finds it.

    `upload_id` is the upload that wrote it, where that may be neither committed nor over.
    """

    key: str
    size: int
    modified_at: float
    upload_id: str | None = None


class BlobWriter(Protocol):
    """The bytes of one upload, being received.

    At most one writer of an upload is open at a time, also across processes, where the driver has
    `Capability.LOCKS_UPLOADS`.
    """

    @property
    def offset(self) -> int:
        """Bytes taken so far, durable or not."""
        ...

    @property
    def holders(self) -> tuple[str, ...]:
        """The replicas that hold what was committed, with `Capability.PLACEMENT`; else none."""
        ...

    async def append(self, chunk: bytes) -> None:
        """Take the next bytes; may return before they are written."""
        ...

    async def flush(self) -> Progress:
        """Write all bytes, so that any process can resume from here after the end of this one."""
        ...

    async def recorded(self) -> None:
        """Be told that the metadata now know what `flush` or `commit` returned.

        What that has replaced is deleted, as far as storage answers.
        """
        ...

    async def commit(self, digest: Digest) -> str:
        """Verify the bytes, make them durable and readable, and return their key.

        Raises:
            DigestInvalidError: the bytes have another digest; nothing became readable.

        """
        ...

    async def withdraw(self) -> None:
        """Take back a commit that the metadata refused: delete what this writer made for it.

        What other writers of the upload may have committed stays.
        """
        ...

    async def close(self) -> None:
        """Let go of the upload without deciding about it; idempotent, also after commit."""
        ...

    async def cancel(self) -> None:
        """Delete what this writer wrote; idempotent, and without effect after commit.

        What the upload had before is deleted, too, where storage locks uploads.
        """
        ...


class BlobStore(Protocol):
    """Where bytes are.

    Atomic: `commit` of a writer. May be retried: `delete`, `discard`. Best effort: `walk` may miss
    or repeat what changes under it.

    Raises (all methods):
        StorageFullError: there is no room.
        UnavailableError: storage does not answer.

    """

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this driver can do beyond the port."""
        ...

    async def begin(self, upload_id: str, algorithm: Algorithm) -> BlobWriter:
        """Begin an upload whose id nobody else knows."""
        ...

    async def resume(self, upload_id: str, algorithm: Algorithm, progress: Progress) -> BlobWriter:
        """Take hold of the upload, to write on at `progress`; nothing is changed yet.

        The caller looks again then whether `progress` is still what is recorded: whoever held the
        upload before may have moved it. Bytes after `progress.offset` that a dead process left
        behind are dropped with the first change.

        Raises:
            UploadBusyError: another writer has it open.
            UploadUnknownError: fewer than `progress.offset` bytes are here.

        """
        ...

    async def discard(self, upload_id: str, progress: Progress = Progress()) -> None:
        """Delete what an upload left that is over without a commit; idempotent.

        `progress` is what was recorded of it last. Without it nothing is deleted that has a key.
        """
        ...

    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Stream the bytes from `start` up to, not including, `stop`.

        Raises:
            ContentDamagedError: there are none under this key, or fewer than asked for.

        """
        ...

    async def size(self, key: str) -> int | None:
        """Return how many bytes are under `key`, or None when there are none."""
        ...

    async def delete(self, key: str) -> None:
        """Delete the bytes under `key`; idempotent."""
        ...

    def walk(self) -> AsyncIterator[StoredBlob]:
        """Find every committed object, in no order."""
        ...

    def walk_uploads(self) -> AsyncIterator[StoredBlob]:
        """Find what uploads have staged; `key` is the upload's id."""
        ...

    def path(self, key: str) -> Path:
        """Return the file that holds the bytes.

        Raises:
            UnsupportedError: the driver lacks `Capability.LOCAL_PATH`.

        """
        ...

    def local_path(self, key: str) -> Path | None:
        """Return a file on this machine that the server may send whole, where there is one.

        Costs no more than a look at the file system; without it, `read` finds the bytes.
        """
        ...

    async def redirect_url(self, key: str, seconds: float) -> str:
        """Return a URL at which anybody who has it can read the bytes for `seconds`.

        Raises:
            UnsupportedError: the driver lacks `Capability.REDIRECT`.

        """
        ...

    async def check_room(self) -> None:
        """Return where an upload, however small, would find room, as far as that is known.

        Raises:
            StorageFullError: it would not.

        """
        ...

    async def adopt(
        self, key: str, stream: AsyncIterator[bytes], size: int, digest: Digest
    ) -> None:
        """Store bytes under a key that another store made; nobody knows the key here yet.

        What is there under the key, whole or not, is replaced, and only by bytes of this digest.

        Raises:
            ContentDamagedError: the stream had not `size` bytes of this digest; it is not under the
                key.

        """
        ...

    async def heal(self, key: str, size: int, digest: Digest) -> bool:
        """Replace bytes that are missing or wrong by a good copy that storage has besides.

        Returns whether there was one; storage that keeps no copies has none.

        Raises:
            UnavailableError: who may have one does not answer.

        """
        ...

    async def check(self) -> None:
        """Prove that storage answers; raises `UnavailableError` when it does not."""
        ...

    async def check_by_use(self) -> None:
        """Write, read, list and delete something, which takes a moment and leaves no trace.

        Raises:
            UnavailableError: the message says which step failed and why.

        """
        ...

    async def close(self) -> None:
        """Let go of threads and connections."""
        ...
