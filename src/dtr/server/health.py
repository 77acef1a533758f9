"""Is this server well: asked cheaply, remembered for a second, and not given up at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from dtr.model.errors import RegistryError, StorageGoneError

_LOG = structlog.get_logger()
_EVERY_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 1.5
_FOLLOW_SECONDS: Final = 30.0
_MOST_FAILURES: Final = 3

Check = Callable[[], Awaitable[str]]
"""Returns what there is to say of a component that works, which may be nothing.

Raises:
    RegistryError: it does not work, and why.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a server says of itself."""

    is_healthy: bool
    problem: str
    """The component and what is the matter with it; also something that leaves it healthy."""


class _Component:
    """One part of the server, and how often in a row it has failed."""

    def __init__(self, name: str, check: Check) -> None:
        self.name = name
        self._check = check
        self._running: asyncio.Future[str] | None = None
        self._failures = 0
        self._was_well = False
        self.remark = ""
        self._problem = ""

    @property
    def problem(self) -> str:
        """What is the matter, once it is certain.

        A primary that moves, or a slow disk, fails one check: a balancer that heard of it would
        take the server out. One that was never well is not believed first, and what does not come
        back by itself is certain at once.
        """
        is_certain = self._failures >= _MOST_FAILURES or not self._was_well
        return self._problem if is_certain else ""

    async def ask(self) -> None:
        """Check, and wait a moment for the answer."""
        if self._running is None:
            # Not cancelled when it is late: a disk that hangs would hang one more thread each time.
            self._running = asyncio.ensure_future(self._check())
        await asyncio.wait([self._running], timeout=_PATIENCE_SECONDS)
        if not self._running.done():
            self._fail("no answer")
            return
        ended, self._running = self._running, None
        try:
            self.remark = ended.result()
        except StorageGoneError as error:
            self._failures = _MOST_FAILURES
            self._fail(str(error))
        except RegistryError as error:
            self._fail(str(error))
        except Exception:  # noqa: BLE001 - a fault in one check is one component's
            _LOG.exception("health check failed", component=self.name)
            self._fail("an unexpected error; see the log")
        else:
            self._failures, self._was_well, self._problem = 0, True, ""

    def _fail(self, problem: str) -> None:
        self._failures += 1
        self._problem, self.remark = problem or "no answer", ""

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._running is not None:
            self._running.cancel()


class Health:
    """The health of one process's share of the server.

    Whoever asks is answered within two seconds, whatever hangs. While somebody asks now and then,
    each component is checked once a second by `follow`, so that three failures in a row are a few
    seconds, also where a balancer's questions are spread over several processes.
    """

    def __init__(
        self,
        checks: Mapping[str, Check],
        *,
        drain_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._components = [_Component(name, check) for name, check in checks.items()]
        self._drain_file = drain_file
        self._clock = clock
        self._asked_at = self._checked_at = float("-inf")
        self._checking = asyncio.Lock()

    @property
    def is_draining(self) -> bool:
        """Whether balancers shall leave this server alone, which still answers everything."""
        return self._drain_file is not None and self._drain_file.exists()

    async def verdict(self) -> Verdict:
        """Return how this server is, as it was a second ago at most."""
        if self.is_draining:
            return Verdict(is_healthy=False, problem="draining")
        self._asked_at = self._clock()
        await self._refresh()
        for component in self._components:
            if component.problem:
                return Verdict(is_healthy=False, problem=f"{component.name}: {component.problem}")
        remarks = (f"{each.name}: {each.remark}" for each in self._components if each.remark)
        return Verdict(is_healthy=True, problem=next(remarks, ""))

    async def components(self) -> dict[str, str]:
        """Return what is the matter with each component; nothing where it is well."""
        self._asked_at = self._clock()
        await self._refresh()
        return {each.name: each.problem or each.remark for each in self._components}

    async def follow(self) -> None:
        """Check again and again while somebody wants to know, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            if self._clock() - self._asked_at < _FOLLOW_SECONDS:
                await self._refresh()

    async def close(self) -> None:
        """Let go of checks that hang."""
        for component in self._components:
            component.close()

    async def _refresh(self) -> None:
        async with self._checking:
            if self._clock() - self._checked_at >= _EVERY_SECONDS:
                await asyncio.gather(*(component.ask() for component in self._components))
                self._checked_at = self._clock()
