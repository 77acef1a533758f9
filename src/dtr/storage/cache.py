"""Blobs that are pulled often, on this machine's disk, in front of storage that is far away.

    DIRECTORY/ab/sha256-abcd…           whole and verified; its time is that of its last use
    DIRECTORY/partial/RANDOM            being filled
    DIRECTORY/lock                      held by the process that makes room

Blobs never change, so a file is right for ever once it is whole: there is nothing to invalidate.
All processes of a machine share the directory. A file appears by rename, durable and with the
digest that it is named by, so it outlives restarts; which of two processes that fill the same one
is last does not matter. Whether a client may read a blob is not decided here.
"""

import asyncio
import fcntl
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from dtr.model.digest import Digest
from dtr.storage.hashers import Hasher
from dtr.storage.port import CHUNK_BYTES

_TOUCH_SECONDS = 60
_IN_USE_SECONDS = 10
_ABANDONED_SECONDS = 3600
_QUEUED_CHUNKS = 8
_PATIENCE_SECONDS = 1
_PARTIAL = "partial"


class BlobCache:
    """At most `limit_bytes` in `directory`, and what is being filled at the moment.

    What was used longest ago makes room. The pull that fills goes at the pace of the disk where
    that is slower; where the disk is full, has no more than `reserve_bytes` left, or takes nothing
    for a second, the blob is not kept. `observe` is told of each hit and each miss.
    """

    def __init__(
        self,
        directory: Path,
        limit_bytes: int,
        *,
        reserve_bytes: int = 0,
        observe: Callable[[bool], None] | None = None,
    ) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._reserve_bytes = reserve_bytes
        self._observe = observe or (lambda _is_hit: None)
        self._filling: set[Digest] = set()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="cache")
        (directory / _PARTIAL).mkdir(parents=True, exist_ok=True, mode=0o700)

    def find(self, digest: Digest, size: int) -> Path | None:
        """Return the file with the blob, or None; it stays there for some seconds at least."""
        path = self._path(digest)
        try:
            found = path.stat()
        except FileNotFoundError:
            found = None
        is_hit = found is not None and found.st_size == size
        self._observe(is_hit)
        if found is None or not is_hit:
            return None
        if time.time() - found.st_mtime > _TOUCH_SECONDS:
            with suppress(OSError):
                os.utime(path)
        return path

    async def read(self, path: Path, start: int, stop: int) -> AsyncIterator[bytes]:
        """Stream a part of a file that was found."""
        loop = asyncio.get_running_loop()
        with path.open("rb") as file:
            for position in range(start, stop, CHUNK_BYTES):
                length = min(CHUNK_BYTES, stop - position)
                yield await loop.run_in_executor(
                    self._threads, os.pread, file.fileno(), length, position
                )

    async def filled_by(
        self, digest: Digest, size: int, stream: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """Pass a whole blob on as it comes, and keep it if its digest is right."""
        if digest in self._filling or size > self._limit_bytes:
            async for chunk in stream:
                yield chunk
            return
        self._filling.add(digest)
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUED_CHUNKS)
        keeping = asyncio.create_task(self._keep(digest, size, pieces))
        try:
            async for chunk in stream:
                await _hand_over(pieces, chunk, keeping)
                yield chunk
            await _hand_over(pieces, None, keeping)
            await asyncio.wait({keeping})
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            self._filling.discard(digest)

    async def close(self) -> None:
        """Finish what threads are doing."""
        self._threads.shutdown()

    async def _keep(self, digest: Digest, size: int, pieces: asyncio.Queue[bytes | None]) -> None:
        """Write what comes into a file, and let it appear when it is whole."""
        unfinished = self._directory / _PARTIAL / secrets.token_hex(16)
        hasher = digest.algorithm.hasher()
        file = self._begin(unfinished, size)
        try:
            while (piece := await pieces.get()) is not None:
                await self._run(partial(_write, file, hasher, piece))
            if hasher.hexdigest() == digest.encoded and file.tell() == size:
                await self._run(partial(_appear, file, unfinished, self._path(digest)))
                await self._run(self._make_room)
        finally:
            file.close()
            unfinished.unlink(missing_ok=True)

    async def _run(self, call: Callable[[], None]) -> None:
        """Run `call` on a thread, and never leave it behind with a file that is then closed."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait({future})
            raise

    def _begin(self, unfinished: Path, size: int) -> BinaryIO:
        found = os.statvfs(self._directory)
        if found.f_bavail * found.f_frsize < self._reserve_bytes + size:
            raise OSError("the disk has no space for the cache")
        return unfinished.open("xb", buffering=0)

    def _path(self, digest: Digest) -> Path:
        encoded = digest.encoded
        return self._directory / encoded[:2] / f"{digest.algorithm}-{encoded}"

    def _make_room(self) -> None:
        """Delete what was used longest ago, unless another process is about it."""
        with (self._directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            used = _files(self._directory)
            total, now = sum(size for _, size, _ in used), time.time()
            for used_at, size, path in sorted(used):
                is_partial = path.parent.name == _PARTIAL
                age = now - used_at
                if is_partial and age < _ABANDONED_SECONDS:
                    continue
                if not is_partial and (total <= self._limit_bytes or age < _IN_USE_SECONDS):
                    continue
                path.unlink(missing_ok=True)
                total -= size


async def _hand_over(
    pieces: asyncio.Queue[bytes | None], piece: bytes | None, keeping: asyncio.Task[None]
) -> None:
    """Queue a piece to be written; give up what is kept where the disk takes too long."""
    if not pieces.full() and not keeping.done():
        pieces.put_nowait(piece)
        return
    queueing = asyncio.ensure_future(pieces.put(piece))
    waited_for: set[asyncio.Future[None]] = {queueing, keeping}
    try:
        await asyncio.wait(
            waited_for, timeout=_PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if not queueing.done():
            keeping.cancel()
    finally:
        queueing.cancel()


def _write(file: BinaryIO, hasher: Hasher, piece: bytes) -> None:
    content = memoryview(piece)
    hasher.update(content)
    while content:
        content = content[file.write(content) :]


def _appear(file: BinaryIO, unfinished: Path, target: Path) -> None:
    os.fsync(file.fileno())
    target.parent.mkdir(exist_ok=True, mode=0o700)
    unfinished.rename(target)


def _files(directory: Path) -> list[tuple[float, int, Path]]:
    """Return when each file was used last, its size and its place."""
    found = []
    for path in directory.glob("*/*"):
        with suppress(FileNotFoundError):
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
    return found
