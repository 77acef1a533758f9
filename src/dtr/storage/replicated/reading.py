"""Reading what other replicas hold: no peer is waited for longer than a moment."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field

from dtr.model.errors import ContentDamagedError, RegistryError, UnavailableError
from dtr.storage.replicated.peers import Peers, PeerUnreachableError


@dataclass(frozen=True, slots=True)
class Wanted:
    """The bytes of a blob from `start` up to, not including, `stop`; all where that is None."""

    key: str
    start: int = 0
    stop: int | None = None


@dataclass(slots=True)
class _Stream:
    """A stream that has begun: its first piece is here."""

    replica: str
    first: bytes
    rest: AsyncGenerator[bytes, None]
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)


async def read_from_peers(
    peers: Peers, replicas: Sequence[str], wanted: Wanted, *, wait_seconds: float = 0
) -> AsyncGenerator[bytes, None]:
    """Stream from whichever peer sends first; one that breaks off is followed by another.

    Where none sends and some do not answer, they are asked again for `wait_seconds`: whoever has
    the bytes may be slow, or be back in a moment.

    Raises:
        ContentDamagedError: every peer was asked, and none has these bytes.
        UnavailableError: some peer that may have them does not answer.

    """
    position, broken = wanted.start, set[str]()
    moved_at = time.monotonic()
    while wanted.stop is None or position < wanted.stop:
        left = [each for each in replicas if each not in broken]
        try:
            stream = await _first(peers, left, Wanted(wanted.key, position, wanted.stop))
        except (ContentDamagedError, UnavailableError) as error:
            # A client that has a part of it already is worth waiting for: somebody may come back.
            patience = peers.pace.read_seconds if broken else wait_seconds
            is_lost = not broken and isinstance(error, ContentDamagedError)
            if is_lost or time.monotonic() - moved_at > patience:
                raise
            broken.clear()
            await asyncio.sleep(peers.pace.retry_seconds)
            continue
        try:
            async with stream.stack, aclosing(stream.rest):
                yield stream.first
                position += len(stream.first)
                async for chunk in stream.rest:
                    yield chunk
                    position += len(chunk)
        except PeerUnreachableError:
            broken.add(stream.replica)
            moved_at = time.monotonic()
            continue
        if wanted.stop is not None and position < wanted.stop:
            raise ContentDamagedError("stored content is shorter than it was")
        return


async def _first(peers: Peers, replicas: Sequence[str], wanted: Wanted) -> _Stream:
    """Return the stream of the peer that begins first; a next one is asked after a moment."""
    ordered = sorted(replicas, key=peers.is_down)
    asking: dict[asyncio.Task[_Stream], str] = {}
    unreachable: RegistryError | None = None
    try:
        while ordered or asking:
            if ordered:
                replica = ordered.pop(0)
                task = asyncio.create_task(_begun(peers, replica, wanted))
                asking[task] = replica
            timeout = peers.pace.hedge_seconds if ordered else None
            done, _ = await asyncio.wait(
                asking, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                del asking[task]
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, RegistryError):
                    raise error
                if not isinstance(error, ContentDamagedError):
                    unreachable = error
    finally:
        await _dismiss(list(asking))
    raise unreachable or ContentDamagedError("stored content is missing")


async def _dismiss(asking: list[asyncio.Task[_Stream]]) -> None:
    """Let go of those who were asked in vain."""
    for task in asking:
        task.cancel()
    for late in await asyncio.gather(*asking, return_exceptions=True):
        if isinstance(late, _Stream):
            await late.stack.aclose()


async def _begun(peers: Peers, replica: str, wanted: Wanted) -> _Stream:
    """Return a peer's stream once its first piece is here."""
    async with AsyncExitStack() as stack:
        rest = await stack.enter_async_context(
            peers.opened(replica, wanted.key, wanted.start, wanted.stop)
        )
        first = await anext(rest, b"")
        return _Stream(replica, first, rest, stack.pop_all())
    raise AssertionError  # pragma: no cover - the block returns or raises


async def size_at_peers(peers: Peers, replicas: Sequence[str], key: str) -> int | None:
    """Return the size of a blob that any peer has; None where all of them say that they have none.

    Raises:
        UnavailableError: nobody has it who answers, and not all answer.

    """
    asking = [asyncio.create_task(peers.size(replica, key)) for replica in replicas]
    unreachable: RegistryError | None = None
    try:
        for answered in asyncio.as_completed(asking):
            try:
                found = await answered
            except RegistryError as error:
                unreachable = error
                continue
            if found is not None:
                return found
    finally:
        for task in asking:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*asking, return_exceptions=True)
    if unreachable is not None:
        raise unreachable
    return None
