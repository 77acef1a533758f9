"""One controller leads: it alone runs the loops that decide, for as long as its lease lives.

Who leads is whose key is at `/ucp/leader`. The key lives with a lease; where it was created is the
fencing token with which everything that a loop writes is conditional. So a leader that does not
know yet that it was replaced changes nothing, however late its writes arrive.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from dtr.model.errors import UnavailableError
from dtr.ucp import keys
from dtr.ucp.model import Document
from dtr.ucp.store import FencedStore, IsUnchanged, Leadership, Loop, Put, Store

_LOG = structlog.get_logger()
_FAREWELL_SECONDS: Final = 2


class LeaderRecord(Document):
    """Who leads: `/ucp/leader`."""

    node_id: str
    since: float
    token: str
    """Random: by it a controller knows its own key where the answer to writing it was lost."""


@dataclass(frozen=True, slots=True)
class LeadingSettings:
    """How a controller goes about it; all in seconds."""

    lease_seconds: float = 10
    """How long nobody leads, at most, when the leader dies."""
    renewal_seconds: float = 2
    pause_seconds: float = 1
    """Between two cycles of a loop, and between two looks at who leads."""
    cycle_seconds: float = 30
    """A cycle that takes longer is cut short and begun again."""


async def leader_of(store: Store) -> LeaderRecord | None:
    """Return who leads; None where nobody does.

    Raises:
        UnavailableError: the store did not answer.

    """
    entry = await store.get(keys.LEADER)
    return entry.document(LeaderRecord) if entry else None


class Leader:
    """Campaigns on behalf of one controller, and runs the loops while it leads."""

    def __init__(
        self,
        store: Store,
        node_id: str,
        loops: Sequence[Loop],
        settings: LeadingSettings = LeadingSettings(),
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is what loops are told, `monotonic` what the lease is watched by."""
        self._store = store
        self._node_id = node_id
        self._loops = tuple(loops)
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._reasons: dict[str, str] = {}
        self._leadership: Leadership | None = None
        self._valid_until = 0.0

    @property
    def is_leading(self) -> bool:
        """Whether this controller leads, as far as it knows."""
        return self._leadership is not None and self._monotonic() < self._valid_until

    @property
    def reasons(self) -> dict[str, str]:
        """By loop, the last sentence that it gave while this controller led."""
        return dict(self._reasons)

    async def run(self) -> None:
        """Campaign, lead, lose, and again; until cancelled. Then the lead is given up at once."""
        while True:
            try:
                await self._campaign()
            except UnavailableError as error:
                _LOG.info("cannot campaign", error=str(error))
            await asyncio.sleep(self._settings.pause_seconds)

    async def _campaign(self) -> None:
        """Lead until the lease is lost, if nobody else does."""
        if await self._store.get(keys.LEADER) is not None:
            return
        begun = self._monotonic()
        lease = await self._store.grant(self._settings.lease_seconds)
        try:
            leadership = await self._take_lead(lease)
            if leadership is not None:
                self._valid_until = begun + self._settings.lease_seconds
                await self._lead(leadership, lease)
        finally:
            with suppress(UnavailableError, TimeoutError):
                async with asyncio.timeout(_FAREWELL_SECONDS):
                    await self._store.revoke(lease)

    async def _take_lead(self, lease: int) -> Leadership | None:
        record = LeaderRecord(
            node_id=self._node_id, since=self._clock(), token=secrets.token_hex(16)
        )
        with suppress(UnavailableError):  # whether it was written is looked up
            await self._store.commit(
                [Put(keys.LEADER, record.encoded(), lease)], [IsUnchanged(keys.LEADER, 0)]
            )
        entry = await self._store.get(keys.LEADER)
        if entry is None or entry.document(LeaderRecord).token != record.token:
            return None
        return Leadership(keys.LEADER, entry.created)

    async def _lead(self, leadership: Leadership, lease: int) -> None:
        """Run all loops until the lease is lost or may have been."""
        _LOG.info("this controller leads", node_id=self._node_id)
        self._leadership = leadership
        self._reasons.clear()
        store = FencedStore(self._store, leadership)
        work = [asyncio.create_task(self._run_loop(loop, store)) for loop in self._loops]
        try:
            await self._keep_lease(lease)
        finally:
            self._leadership = None
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            _LOG.info("this controller leads no more", node_id=self._node_id)

    async def _keep_lease(self, lease: int) -> None:
        """Return when the lease has ended, or would have if no word of its renewal had arrived."""
        settings = self._settings
        while (left := self._valid_until - self._monotonic()) > 0:
            begun = self._monotonic()
            try:
                async with asyncio.timeout(left):
                    if not await self._store.keep_alive(lease):
                        return
            except (UnavailableError, TimeoutError):
                pass  # there is time for another try, or the condition above ends it
            else:
                # From before it was sent: the store counts from when it arrived, which is later.
                self._valid_until = begun + settings.lease_seconds
            left = self._valid_until - self._monotonic()
            await asyncio.sleep(max(0, min(left, settings.renewal_seconds)))

    async def _run_loop(self, loop: Loop, store: FencedStore) -> None:
        while True:
            try:
                async with asyncio.timeout(self._settings.cycle_seconds):
                    self._tell(loop, await loop.cycle(store, self._clock()))
            except TimeoutError:
                self._tell(loop, "the cycle took too long and was cut short")
            except UnavailableError as error:
                self._tell(loop, f"something did not answer: {error}")
            except Exception as error:  # noqa: BLE001 - the outermost loop: what others do goes on
                self._tell(loop, f"the cycle failed: {error!r}", error)
            await asyncio.sleep(self._settings.pause_seconds)

    def _tell(self, loop: Loop, reason: str, error: Exception | None = None) -> None:
        if self._reasons.get(loop.name) != reason:
            self._reasons[loop.name] = reason
            if error is None:
                _LOG.info("decided", loop=loop.name, reason=reason)
            else:
                _LOG.error("decided", loop=loop.name, reason=reason, exc_info=error)
