"""What time it is by most machines, as a controller learns it from what agents report."""

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from dtr.model.errors import UnavailableError
from dtr.server.clock import TOLERATED_SECONDS, SteadyClock
from dtr.ucp import keys
from dtr.ucp.model import NodeReport
from dtr.ucp.store import Store

_LOOK_SECONDS: Final = 2.0
_SILENT_SECONDS: Final = 10.0
_LOG = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A node's report that was seen to be new."""

    revision: int
    seen_at: float | None
    """By this controller's steady clock; None where the report was there before."""
    offset: float
    """The node's clock less this controller's steady one; too low by how long it was unseen."""


@dataclass(slots=True)
class AgreedTime:
    """Compares the clocks of all nodes, without trusting the one of the controller's machine.

    A clock counts while its node reports. Those agree that are within `TOLERATED_SECONDS` of each
    other, and they must be more than half of all: of two machines that differ, none is right.
    """

    machine: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    _sightings: dict[str, _Sighting] = field(default_factory=dict)

    def see(self, reports: Mapping[str, tuple[int, float]]) -> None:
        """Take what reports say, by node: the revision of the report, and the node's clock."""
        now = self.steady()
        for node_id, (revision, at) in reports.items():
            known = self._sightings.get(node_id)
            if known is None:
                self._sightings[node_id] = _Sighting(revision, None, 0.0)
            elif known.revision != revision:
                self._sightings[node_id] = _Sighting(revision, now, at - now)
        for node_id in self._sightings.keys() - reports.keys():
            del self._sightings[node_id]

    def correction(self) -> float | None:
        """Return how far most machines are ahead of this machine's clock; None: unknown."""
        now = self.steady()
        offsets = sorted(
            each.offset
            for each in tuple(self._sightings.values())  # from another thread
            if each.seen_at is not None and now - each.seen_at <= _SILENT_SECONDS
        )
        agreeing = max((_near(offsets, first) for first in offsets), key=len, default=[])
        if 2 * len(agreeing) <= len(offsets):
            return None
        return statistics.median(agreeing) + now - self.machine()

    async def follow(self, store: Store) -> None:
        """Look at the reports in the store until cancelled."""
        while True:
            try:
                entries, _ = await store.list(keys.REPORTS)
                self.see({each.key: (each.modified, _told_at(each.value)) for each in entries})
            except (UnavailableError, ValueError) as error:
                _LOG.debug("the machines' clocks were not compared", error=str(error))
            await asyncio.sleep(_LOOK_SECONDS)


class ControllerClock(SteadyClock):
    """The time that a controller goes by: that of most machines."""

    def __init__(self, agreed: AgreedTime) -> None:
        super().__init__(agreed.correction)
        self._agreed = agreed

    @property
    def is_agreed(self) -> bool:
        """Whether most machines are known to have this time."""
        return self._agreed.correction() is not None


def _near(offsets: list[float], first: float) -> list[float]:
    return [each for each in offsets if first <= each <= first + TOLERATED_SECONDS]


def _told_at(report: bytes) -> float:
    return NodeReport.model_validate_json(report).at
