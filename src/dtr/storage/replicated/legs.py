"""The way of an upload's bytes to one of the replicas that shall have them."""

import asyncio
import time
from collections import deque
from typing import Any, Final, Protocol

import structlog

from dtr.model.digest import Digest
from dtr.model.errors import (
    DigestInvalidError,
    RegistryError,
    UnavailableError,
    UploadUnknownError,
)
from dtr.model.failures import reason_of
from dtr.storage.replicated.names import StagedName
from dtr.storage.replicated.peers import Peers, PeerUnreachableError
from dtr.storage.replicated.protocol import MOST_BYTES, Addition, Then
from dtr.storage.replicated.sessions import Sessions
from dtr.storage.replicated.staging import Start

_LOG = structlog.get_logger()
MOST_QUEUED_BYTES: Final = 4 << 20
"""How far a replica may be behind what has been received."""


class Disk(Protocol):
    """Where staged bytes go: this replica's disk, or another's."""

    async def add(self, name: StagedName, addition: Addition, content: bytes) -> Any:
        """Add bytes to an upload; what is said of it then."""
        ...

    async def read(self, name: StagedName, start: int, stop: int) -> bytes:
        """Return staged bytes."""
        ...

    async def forget(self, name: StagedName) -> None:
        """Delete staged bytes."""
        ...


class OwnDisk:
    """This replica's."""

    def __init__(self, sessions: Sessions) -> None:
        self.add = sessions.add
        self.read = sessions.read
        self.forget = sessions.forget


class PeerDisk:
    """Another replica's."""

    def __init__(self, peers: Peers, replica: str) -> None:
        self._peers = peers
        self._replica = replica

    async def add(self, name: StagedName, addition: Addition, content: bytes) -> Any:
        """Add bytes to an upload."""
        return await self._peers.add(self._replica, name, addition, content)

    async def read(self, name: StagedName, start: int, stop: int) -> bytes:
        """Return staged bytes."""
        return await self._peers.staged(self._replica, name, start, stop)

    async def forget(self, name: StagedName) -> None:
        """Delete staged bytes."""
        await self._peers.forget(self._replica, name)


class Leg:
    """Brings bytes to one disk, in their order, while the next ones are received.

    `failure` is what ended it: nothing is brought after a hole. `wake` is set at each step.
    """

    def __init__(
        self,
        replica: str,
        disk: Disk,
        name: StagedName,
        start: Start,
        wake: asyncio.Event,
        *,
        attempt: int = 0,
    ) -> None:
        self.replica = replica
        self.disk = disk
        self.failure: RegistryError | None = None
        self.queued_bytes = 0
        self._moved_at = time.monotonic()
        self._name = name
        self._start = start
        self._attempt = attempt
        self._position = start.offset
        self._wake = wake
        self._queue: deque[bytes] = deque()
        self._last: tuple[Then, Digest | None] | None = None
        self._answer: Any = None
        self._refusal: DigestInvalidError | None = None
        self._is_sealed = False
        self._pump: asyncio.Task[None] | None = None

    @property
    def position(self) -> int:
        """Up to where bytes were handed to it."""
        return self._position + self.queued_bytes

    @property
    def is_full(self) -> bool:
        """Whether it is so far behind that the next bytes have to wait."""
        return self.queued_bytes >= MOST_QUEUED_BYTES

    def has_stalled(self, seconds: float) -> bool:
        """Whether something is under way that has not moved for so long."""
        is_under_way = self._pump is not None and not self._pump.done()
        return is_under_way and time.monotonic() - self._moved_at > seconds

    def put(self, content: bytes) -> None:
        """Take bytes to bring; returns at once."""
        for start in range(0, len(content), MOST_BYTES):
            self._queue.append(content[start : start + MOST_BYTES])
        self.queued_bytes += len(content)
        self._go()

    async def finish(self, then: Then, digest: Digest | None = None) -> Any:
        """Bring everything, do `then`, and return the answer; None where the leg has failed.

        Raises:
            DigestInvalidError: the bytes there have another digest than `digest`.

        """
        if then is Then.WRITE and self._is_sealed:
            return None
        self._last, self._answer, self._refusal = (then, digest), None, None
        while self._is_under_way():
            self._go()
            await self.settle()
        if self._refusal is not None:
            raise self._refusal
        return self._answer

    async def settle(self) -> None:
        """Wait for what is under way."""
        if self._pump is not None:
            await asyncio.wait([self._pump])

    async def end(self, seconds: float) -> None:
        """Wait so long for what is under way, and then end it."""
        if self._pump is not None:
            await asyncio.wait([self._pump], timeout=seconds)
            self.give_up(PeerUnreachableError(f"replica {self.replica} is too slow"))
            await self.settle()

    def _is_under_way(self) -> bool:
        return self.failure is None and bool(self._queue or self._last)

    def give_up(self, failure: RegistryError) -> None:
        """End it: somebody else is to have the bytes."""
        self.failure = self.failure or failure
        if self._pump is not None:
            self._pump.cancel()

    def _go(self) -> None:
        if self.failure is None and (self._pump is None or self._pump.done()):
            self._moved_at = time.monotonic()
            self._pump = asyncio.create_task(self._bring())

    async def _bring(self) -> None:
        try:
            while self._queue or self._last is not None:
                await self._step()
                self._moved_at = time.monotonic()
                self._wake.set()
        except DigestInvalidError as refusal:
            self._refusal, self._last = refusal, None
        except RegistryError as failure:
            self.failure = failure
        except Exception as error:  # noqa: BLE001 - the outermost loop of a leg
            _LOG.exception("bytes were not brought to a replica", replica=self.replica)
            self.failure = UnavailableError(f"a replica cannot be written to: {reason_of(error)}")
        finally:
            self._wake.set()

    async def _step(self) -> None:
        pieces: list[bytes] = []
        while self._queue and sum(map(len, pieces)) + len(self._queue[0]) <= MOST_BYTES:
            pieces.append(self._queue.popleft())
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        last = self._last if not self._queue else None
        then, digest = last or (Then.NOTHING, None)
        addition = Addition(self._start, self._position, then, digest, self._attempt)
        try:
            answer = await self.disk.add(self._name, addition, content)
        except DigestInvalidError:
            self._advance(content)
            raise
        self._advance(content)
        if last is not None:
            self._answer, self._last = answer, None
            self._is_sealed = last[0] is Then.FLUSH

    def _advance(self, content: bytes) -> None:
        self._position += len(content)
        self.queued_bytes -= len(content)


async def bring(leg: Leg, source: Disk, name: StagedName, stop: int) -> None:
    """Have a leg bring what another disk has staged, up to `stop`.

    Raises:
        RegistryError: the source does not have it, or does not answer.

    """
    while leg.position < stop and leg.failure is None:
        start = leg.position
        content = await source.read(name, start, min(start + MOST_BYTES, stop))
        if not content:
            raise UploadUnknownError(upload=name.upload_id)
        leg.put(content)
        if leg.is_full:
            await leg.settle()
