"""Uploads on this replica's own disk, as all who write there do it: workers and peer endpoint.

    ROOT/uploads/UPLOAD_ID.NONCE        what one writer brought, everything before it included

A writer's bytes have a name of their own, and what was acknowledged under a name never changes. So
there are no locks among replicas: writers that race write different files, and whoever is recorded
in the session's row first is the one that others go on from.

Whoever goes on from a name does not copy it. It gives the file its own name beside the old one and
appends: the acknowledged bytes stay what they are, and the old name goes when the new one has been
recorded. That is done only while the file has one name and no writer. Otherwise somebody else goes
on from it, or it is a blob already, and its beginning is copied. And whoever writes under a name
has it refused where the file has another name besides, unless that is the one it started from.
"""

import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import UploadBusyError, UploadUnknownError
from dtr.storage.filesystem import FilesystemBlobStore
from dtr.storage.filesystem_writer import FilesystemWriter
from dtr.storage.hashers import Hasher
from dtr.storage.port import Progress
from dtr.storage.replicated.names import StagedName

_COPIED_BYTES = 1 << 20
_WITH_BEFORE = 2


@dataclass(frozen=True, slots=True)
class Start:
    """Where a writer begins: after `offset` bytes of `before`, or anew where that is None.

    `digest` is that of these bytes, where it is known of this replica's copy, too.
    """

    algorithm: Algorithm
    before: StagedName | None = None
    offset: int = 0
    digest: Digest | None = None


class Staging:
    """The staged uploads of one replica, on the file system that its blobs are on."""

    def __init__(self, local: FilesystemBlobStore, *, believes: bool = True) -> None:
        self._local = local
        self._believes = believes

    async def open(self, name: StagedName, start: Start) -> FilesystemWriter:
        """Return a writer of `name` that has the bytes to start from.

        Raises:
            UploadUnknownError: fewer bytes than that are here.

        """
        if start.before is None:
            return await self._opened(name, Progress(), start.algorithm.hasher(), start)
        hasher = await self._take_over(name, start.before, start)
        is_known = hasher is not None or self._believes
        known = Progress(start.offset, start.digest if is_known else None)
        return await self._opened(name, known, hasher, start)

    async def reopen(self, name: StagedName, start: Start, offset: int) -> FilesystemWriter:
        """Return a writer of `name` that forgot what comes after `offset`; it knows no digest.

        Raises:
            UploadUnknownError: fewer bytes than that are here.

        """
        hasher = None if offset else start.algorithm.hasher()
        return await self._opened(name, Progress(offset), hasher, start)

    async def read(self, name: StagedName, start: int, stop: int) -> bytes:
        """Return staged bytes, fewer where fewer are here.

        Raises:
            UploadUnknownError: nothing is here under this name.

        """

        def read() -> bytes:
            try:
                with self._local.upload_path(str(name)).open("rb") as file:
                    return os.pread(file.fileno(), stop - start, start)
            except FileNotFoundError:
                raise UploadUnknownError(upload=name.upload_id) from None

        return await self._local.run("read", read)

    async def remove(self, name: StagedName) -> None:
        """Delete what is staged under a name; idempotent."""
        await self._local.discard(str(name))

    async def remove_all(self, upload_id: str) -> None:
        """Delete all that an upload staged here; idempotent."""
        root = self._local.upload_path("")
        await self._local.run(
            "discard",
            lambda: _unlink(root.glob(f"{upload_id}.*")),
        )

    async def _opened(
        self, name: StagedName, known: Progress, hasher: Hasher | None, start: Start
    ) -> FilesystemWriter:
        def check(descriptor: int) -> None:
            self._check_names(name, start.before, os.fstat(descriptor))

        writer = FilesystemWriter(
            self._local, str(name), known, hasher, start.algorithm, check=check
        )
        if known.offset:
            await writer.open()
        return writer

    async def _take_over(self, name: StagedName, before: StagedName, start: Start) -> Hasher | None:
        """Give the bytes of `before` the name `name`; return their hash state where it is known."""
        known = Progress(start.offset, start.digest)
        hasher = self._local.hashers.take(str(before), start.algorithm, known)
        if await self._local.run("take over", lambda: self._link(before, name, start.offset)):
            return hasher
        return await self._local.run("copy", lambda: self._copy(before, name, start))

    def _check_names(
        self, name: StagedName, before: StagedName | None, found: os.stat_result
    ) -> None:
        """Refuse a file that is something else besides: a blob, or what somebody goes on with.

        Raises:
            UploadBusyError: it is.

        """
        if found.st_nlink == 1:
            return
        with suppress(FileNotFoundError):
            if before is not None and found.st_nlink == _WITH_BEFORE:
                source = self._local.upload_path(str(before)).stat()
                if before != name and os.path.samestat(source, found):
                    return
        raise UploadBusyError(upload=name.upload_id)

    def _link(self, before: StagedName, name: StagedName, offset: int) -> bool:
        """Name the file anew; return False where it is not for us to write on."""
        source, target = (self._local.upload_path(str(each)) for each in (before, name))
        target.unlink(missing_ok=True)  # what an earlier attempt at the same made
        try:
            descriptor = os.open(source, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UploadUnknownError(upload=before.upload_id) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(descriptor)
            if found.st_size < offset:
                raise UploadUnknownError(upload=before.upload_id)
            if found.st_nlink != 1:
                return False
            # The link is the claim: whoever comes next counts two names.
            os.link(source, target)
        except BlockingIOError:
            return False
        except FileNotFoundError:
            raise UploadUnknownError(upload=before.upload_id) from None
        finally:
            os.close(descriptor)
        return True

    def _copy(self, before: StagedName, name: StagedName, start: Start) -> Hasher:
        """Copy the beginning of a file that somebody else goes on with."""
        hasher = start.algorithm.hasher()
        target = self._local.upload_path(str(name))
        left = start.offset
        try:
            with self._local.upload_path(str(before)).open("rb") as source, target.open("wb") as to:
                self._local.check_bytes(left)
                while left and (content := source.read(min(left, _COPIED_BYTES))):
                    hasher.update(content)
                    to.write(content)
                    left -= len(content)
        except FileNotFoundError:
            raise UploadUnknownError(upload=before.upload_id) from None
        found = f"{hasher.name}:{hasher.hexdigest()}"
        if left or (start.digest is not None and start.digest != found):
            with suppress(FileNotFoundError):
                target.unlink()
            raise UploadUnknownError(upload=before.upload_id)
        return hasher


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
