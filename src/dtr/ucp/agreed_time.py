"""What time it is by most machines, as a controller learns it from what agents report."""

import asyncio
import statistics
import time
from collections import deque
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
_REMEMBERED: Final = 8
_FEWEST: Final = 3
_LOG = structlog.get_logger()


@dataclass(slots=True)
class _Sightings:
    """A node's reports as they were seen to be new."""

    revision: int
    seen_at: float = 0.0
    """By this controller's steady clock."""
    offsets: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    """The node's clock less the steady one; each too low by how long the report was on its way."""


@dataclass(slots=True)
class AgreedTime:
    """Compares the clocks of all nodes, without trusting the one of the controller's machine.

    A clock counts while its node reports. A report may have been on its way for minutes, where etcd
    or a controller was stopped; so a node's clock is what the least delayed of some reports says.
    Those agree that are within `TOLERATED_SECONDS` of each other, and they must be more than half
    of all: of two machines that differ, none is right.
    """

    machine: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    _nodes: dict[str, _Sightings] = field(default_factory=dict)

    def see(self, reports: Mapping[str, tuple[int, float]]) -> None:
        """Take what reports say, by node: the revision of the report, and the node's clock."""
        now = self.steady()
        for node_id, (revision, at) in reports.items():
            known = self._nodes.setdefault(node_id, _Sightings(revision))
            if known.revision != revision:
                known.revision, known.seen_at = revision, now
                known.offsets.append(at - now)
        for node_id in self._nodes.keys() - reports.keys():
            del self._nodes[node_id]

    def correction(self) -> float | None:
        """Return how far most machines are ahead of this machine's clock; None: unknown."""
        now = self.steady()
        offsets = sorted(
            max(each.offsets)
            for each in tuple(self._nodes.values())  # from another thread
            if len(each.offsets) >= _FEWEST and now - each.seen_at <= _SILENT_SECONDS
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
