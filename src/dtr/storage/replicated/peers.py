"""Asking other replicas, and remembering which of them do not answer."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, TypeVar

import aiohttp

from dtr.model.away import away_from_loop
from dtr.model.digest import Digest
from dtr.model.documents import JsonInvalidError, load_json
from dtr.model.errors import (
    ContentDamagedError,
    RegistryError,
    StorageFullError,
    UnavailableError,
)
from dtr.model.failures import reason_of
from dtr.model.members import Member, Members, MembersFile
from dtr.storage.port import CHUNK_BYTES, StoredBlob
from dtr.storage.replicated.names import StagedName
from dtr.storage.replicated.protocol import ERROR, ERRORS, FREE, ROOT, Addition
from dtr.storage.replicated.trust import client_contexts
from dtr.storage.replication import Credentials

T = TypeVar("T")

_FORBIDDEN = 403
_NO_SUCH_RANGE = 416
_LONGEST_MESSAGE = 500
_LARGEST_DOCUMENT = 1 << 20


class PeerUnreachableError(UnavailableError):
    """A replica does not answer, or does not let this one in."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long replicas wait for each other."""

    patience_seconds: float = 60
    """How long a write waits for enough replicas."""
    connect_seconds: float = 0.5
    answer_seconds: float = 2
    """How long a peer may be silent before it is asked whether it lives."""
    patient_seconds: float = 3
    """How long at least to wait for a peer that did not answer, where nobody else can be asked."""
    read_seconds: float = 5
    """How long a client that reads waits for anybody who has the bytes."""
    hedge_seconds: float = 0.3
    """How soon a second peer is asked for what a first one did not begin to send."""
    down_seconds: float = 5
    """How long a peer that did not answer is asked only when nobody else can be."""
    stall_seconds: float = 10
    """How long a peer that lives may take for some bytes where another could have them."""
    retry_seconds: float = 0.25
    tight_bytes: int = 1 << 30
    """With less room than that a peer is sent new bytes only when others have no more."""


class Peers:
    """The other members, by their ids."""

    def __init__(
        self,
        members: MembersFile,
        credentials: Credentials,
        pace: Pace,
        *,
        connections: int = 64,
        observe: Callable[[str, float], None],
    ) -> None:
        self._members = members
        self._contexts = client_contexts(credentials)
        self.pace = pace
        self._connections = connections
        self._observe = observe
        self._session: aiohttp.ClientSession | None = None
        self._down_until: dict[str, float] = {}
        self._free_bytes: dict[str, int] = {}

    @property
    def members(self) -> Members:
        """The members as the file has them now."""
        return self._members.read()

    def is_down(self, replica: str) -> bool:
        """Whether a peer did not answer a moment ago."""
        return self._down_until.get(replica, 0) > time.monotonic()

    def note_down(self, replica: str) -> None:
        """Have a replica asked only when nobody else can be, for a while."""
        self._down_until[replica] = time.monotonic() + self.pace.down_seconds

    def is_tight(self, replica: str) -> bool:
        """Whether a peer had little room when it answered last."""
        return self._free_bytes.get(replica, 1 << 62) < self.pace.tight_bytes

    async def add(self, replica: str, name: StagedName, addition: Addition, content: bytes) -> Any:
        """Add bytes to an upload; return the peer's answer."""
        path = f"/uploads/{name}"

        async def ask() -> Any:
            async with self._asked(
                replica, "PUT", path, params=addition.parameters(), data=BytesIO(content)
            ) as answer:
                return await _document(answer)

        return await self.alive(replica, ask)

    async def staged(self, replica: str, name: StagedName, start: int, stop: int) -> bytes:
        """Return staged bytes."""
        params = {"start": str(start), "stop": str(stop)}
        async with self._asked(replica, "GET", f"/uploads/{name}", params=params) as answer:
            return await answer.read()

    async def forget(self, replica: str, name: StagedName | str) -> None:
        """Have a peer delete staged bytes: one writer's, or all of an upload."""
        async with self._asked(replica, "DELETE", f"/uploads/{name}"):
            pass

    async def size(self, replica: str, key: str) -> int | None:
        """Return how many bytes a peer has under a key."""
        try:
            async with self._asked(replica, "HEAD", f"/blobs/{key}") as answer:
                return answer.content_length
        except ContentDamagedError:
            return None

    @asynccontextmanager
    async def opened(
        self, replica: str, key: str, start: int, stop: int | None
    ) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """Give the bytes under a key as a peer sends them; silence for a moment ends them.

        Raises:
            ContentDamagedError: the peer has none.

        """
        headers = {}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        async with self._asked(replica, "GET", f"/blobs/{key}", headers=headers) as answer:
            yield self._chunks(replica, answer)

    async def adopt(
        self, replica: str, key: str, stream: AsyncIterator[bytes], size: int, digest: Digest
    ) -> None:
        """Have a peer take a copy over, verified there."""
        params = {"size": str(size), "digest": str(digest)}
        path = f"/blobs/{key}"

        failures: list[RegistryError] = []

        async def noted() -> AsyncIterator[bytes]:
            try:
                async for chunk in stream:
                    yield chunk
            except RegistryError as error:
                failures.append(error)  # the client would only say that it could not send
                raise

        async def ask() -> None:
            async with self._asked(replica, "PUT", path, params=params, data=noted()):
                pass

        try:
            await self.alive(replica, ask)
        except PeerUnreachableError:
            if failures:
                raise failures[0] from None
            raise

    async def delete(self, replica: str, key: str) -> None:
        """Have a peer delete what it has under a key."""
        async with self._asked(replica, "DELETE", f"/blobs/{key}"):
            pass

    async def page(self, replica: str, after: str) -> list[StoredBlob]:
        """Return a page of what a peer holds."""
        async with self._asked(replica, "GET", "/blobs", params={"after": after}) as answer:
            return [StoredBlob(*each) for each in await _document(answer)]

    async def check(self, replica: str) -> None:
        """Ask a peer whether it lives."""
        async with self._asked(replica, "GET", "/check"):
            pass

    async def alive(self, replica: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Do what may take long on a slow disk, for as long as the peer answers besides.

        Raises:
            PeerUnreachableError: it does not.

        """
        asking = asyncio.ensure_future(ask())
        try:
            while True:
                done, _ = await asyncio.wait({asking}, timeout=self.pace.answer_seconds)
                if done:
                    return asking.result()
                await self.check(replica)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    def check_credentials(self) -> None:
        """Look whether there is a certificate to show.

        Raises:
            InvalidError: it cannot be read.

        """
        self._contexts.current()

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def _asked(
        self,
        replica: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        data: Any = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and give the answer, which is no error; note who does not answer."""
        member = self._member(replica)
        started = time.perf_counter()
        # It is asked although it did not answer: nobody else can be, and it may only be slow.
        least = self.pace.patient_seconds if self.is_down(replica) else 0
        # Bytes on their way may take their time: `alive` looks after those.
        silence = max(self.pace.answer_seconds, least) if data is None else None
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=max(self.pace.connect_seconds, least), sock_read=silence
        )
        host = f"[{member.address}]" if ":" in member.address else member.address
        try:
            async with self._opened_session().request(
                method,
                f"https://{host}:{member.peer_port}{ROOT}{path}",
                params=params,
                headers={"Accept-Encoding": "identity", **(headers or {})},
                data=data,
                timeout=timeout,
                ssl=self._contexts.current(),
                server_hostname=member.node_id,
                allow_redirects=False,
            ) as answer:
                self._observe(f"peer {method}", time.perf_counter() - started)
                self._note(replica, answer)
                if not answer.ok:
                    raise await _error(replica, answer)
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.note_down(replica)
            raise PeerUnreachableError(
                f"replica {replica} does not answer: {_words(error)}",
                replica=replica,
            ) from error

    async def _chunks(
        self, replica: str, answer: aiohttp.ClientResponse
    ) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.note_down(replica)
            raise PeerUnreachableError(
                f"replica {replica} stopped sending: {_words(error)}",
                replica=replica,
            ) from error

    def _member(self, replica: str) -> Member:
        for member in self.members.peers:
            if member.id == replica:
                return member
        raise PeerUnreachableError(f"replica {replica} is no member any more", replica=replica)

    def _note(self, replica: str, answer: aiohttp.ClientResponse) -> None:
        self._down_until.pop(replica, None)
        free = answer.headers.get(FREE, "")
        if free.isdigit():
            self._free_bytes[replica] = int(free)

    def _opened_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._connections, limit_per_host=0)
            self._session = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, trust_env=False
            )
        return self._session


async def _document(answer: aiohttp.ClientResponse) -> Any:
    """Return a peer's JSON, of which a page of what it holds is the largest.

    Raises:
        PeerUnreachableError: it is none, or too much.

    """
    content = bytearray()
    async for chunk in answer.content.iter_any():
        content += chunk
        if len(content) > _LARGEST_DOCUMENT:
            raise PeerUnreachableError(f"a peer answered more than {_LARGEST_DOCUMENT} bytes")
    try:
        return await away_from_loop(len(content), partial(load_json, bytes(content)))
    except JsonInvalidError as error:
        raise PeerUnreachableError(f"what a peer answered {error}") from None


async def _error(replica: str, answer: aiohttp.ClientResponse) -> RegistryError:
    """Return the error that a peer's answer says."""
    text = (await answer.text())[:_LONGEST_MESSAGE]
    kind = ERRORS.get(answer.headers.get(ERROR, ""))
    if kind is StorageFullError:
        return StorageFullError(replica=replica)
    if kind is not None:
        return kind(text, replica=replica)
    if answer.status == _NO_SUCH_RANGE:
        return ContentDamagedError("stored content is shorter than it was", replica=replica)
    if answer.status == _FORBIDDEN:
        return PeerUnreachableError(
            f"replica {replica} does not accept this node's certificate", replica=replica
        )
    return PeerUnreachableError(f"replica {replica} failed with {answer.status}", replica=replica)


def _words(error: Exception) -> str:
    return reason_of(error, "it broke off the connection")
