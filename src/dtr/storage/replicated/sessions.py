"""Uploads that are being received onto one disk."""

import asyncio
import time
from contextlib import suppress
from typing import Any

from dtr.model.digest import Digest
from dtr.model.errors import (
    DigestInvalidError,
    InvalidError,
    RegistryError,
    UnavailableError,
    UploadBusyError,
    UploadUnknownError,
)
from dtr.storage.filesystem import FilesystemBlobStore
from dtr.storage.filesystem_writer import FilesystemWriter
from dtr.storage.replicated.names import StagedName
from dtr.storage.replicated.protocol import Addition, Then
from dtr.storage.replicated.staging import Staging

_MOST_SESSIONS = 1024
_MOST_ATTEMPTS = 4096


class Sessions:
    """The uploads that somebody is sending bytes of to one disk, one writer each.

    The peer endpoint has one for all other replicas, and each process one for what it takes itself.
    Where the other side is not believed, a digest that it names of bytes is not taken for theirs:
    they are read again where this process has not seen all of them pass.
    """

    def __init__(self, local: FilesystemBlobStore, *, believes: bool = True) -> None:
        self._local = local
        self._staging = Staging(local, believes=believes)
        self._sessions: dict[StagedName, _Session] = {}
        self._attempts: dict[StagedName, int] = {}

    async def add(self, name: StagedName, addition: Addition, content: bytes) -> dict[str, Any]:
        """Add bytes; return what the other side is told."""
        session = self._sessions.get(name)
        if session is None:
            if len(self._sessions) >= _MOST_SESSIONS:
                raise UnavailableError("this replica accepts no more uploads at the same time")
            session = self._sessions[name] = _Session()
        async with session.turn:
            if self._sessions.setdefault(name, session) is not session:
                raise UploadBusyError(upload=name.upload_id)
            self._check_attempt(name, addition.attempt)
            session.used_at = time.monotonic()
            try:
                return await self._add(name, session, addition, content)
            except DigestInvalidError:
                raise  # decides nothing: the bytes are there, to be committed as something else
            except BaseException:
                await self._close(name, session)
                raise

    def _check_attempt(self, name: StagedName, attempt: int) -> None:
        """Refuse what a writer sent before it began anew with the same bytes.

        It gave up waiting, which does not call back what was on its way. Carried out late it would
        cut off bytes that came after it, and these may have been acknowledged.
        """
        if attempt < self._attempts.get(name, 0):
            raise UploadBusyError(upload=name.upload_id)
        if attempt:
            self._attempts[name] = attempt
        while len(self._attempts) > _MOST_ATTEMPTS:
            del self._attempts[next(iter(self._attempts))]

    async def _add(
        self, name: StagedName, session: "_Session", addition: Addition, content: bytes
    ) -> dict[str, Any]:
        try:
            writer = await self._writer(name, session, addition)
        except UploadUnknownError:
            key = _key(name, addition.digest)
            if key and await self._local.size(key) == addition.offset + len(content):
                return {"key": key}  # it was carried out before, and its answer lost
            raise
        if content:
            await writer.append(content)
        if addition.then is Then.NOTHING:
            return {}
        if addition.then is Then.WRITE:
            await writer.flush()
            return {}
        if addition.digest is not None:
            key = await writer.commit(addition.digest)
            await self._close(name, session)
            return {"key": key}
        progress = await writer.flush()
        await self._close(name, session)
        return {"offset": progress.offset, "digest": progress.digest}

    async def _writer(
        self, name: StagedName, session: "_Session", addition: Addition
    ) -> FilesystemWriter:
        if session.writer is not None and session.writer.offset == addition.offset:
            return session.writer
        if session.writer is not None:
            await session.writer.close()
            session.writer = None
        start = addition.start
        begins_at = start.offset if start.before is not None else 0
        if addition.offset < begins_at:
            raise InvalidError("an upload goes on after what it started from")
        if addition.offset == begins_at:
            session.writer = await self._staging.open(name, start)
        else:
            session.writer = await self._staging.reopen(name, start, addition.offset)
        return session.writer

    async def read(self, name: StagedName, start: int, stop: int) -> bytes:
        """Return staged bytes."""
        return await self._staging.read(name, start, stop)

    async def forget(self, name: StagedName) -> None:
        """Delete what one writer staged; idempotent."""
        session = self._sessions.get(name)
        if session is not None:
            async with session.turn:
                await self._close(name, session)
        await self._staging.remove(name)

    async def forget_all(self, upload_id: str) -> None:
        """Delete what an upload staged."""
        for name in [each for each in self._sessions if each.upload_id == upload_id]:
            await self.forget(name)
        await self._staging.remove_all(upload_id)

    async def close_idle(self, seconds: float) -> None:
        """Let go of uploads that brought nothing for so long; their bytes are the sweep's."""
        now = time.monotonic()
        for name, session in list(self._sessions.items()):
            if now - session.used_at >= seconds and not session.turn.locked():
                async with session.turn:
                    await self._close(name, session)

    async def _close(self, name: StagedName, session: "_Session") -> None:
        self._sessions.pop(name, None)
        if session.writer is not None:
            with suppress(RegistryError):
                await session.writer.close()
            session.writer = None


class _Session:
    """One writer, and whose turn it is with it."""

    def __init__(self) -> None:
        self.writer: FilesystemWriter | None = None
        self.turn = asyncio.Lock()
        self.used_at = time.monotonic()


def _key(name: StagedName, digest: Digest | None) -> str:
    return f"{digest.algorithm}/{digest.encoded[:2]}/{digest.encoded}.{name}" if digest else ""
