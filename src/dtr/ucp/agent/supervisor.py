"""Runs the node's processes; what `port.Supervisor` promises."""

import asyncio
import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dtr.ucp.agent.files import make_directory
from dtr.ucp.agent.keeper import Keeper, Pauses
from dtr.ucp.agent.launch import check
from dtr.ucp.agent.logfiles import LogFile
from dtr.ucp.agent.port import NodeDirectory, ProcessSpecification, SupervisionError, Supervisor
from dtr.ucp.model import ProcessReport, ProcessState

_PAUSES: Final = Pauses()
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class ProcessSupervisor:
    """One keeper for each name; logs are in `directory.logs`, pid files in `directory.run`.

    To be used from one event loop, in a thread that lives as long as the agent: the kernel sends
    the orphan signal when the thread ends.
    """

    def __init__(
        self,
        directory: NodeDirectory,
        pauses: Pauses = _PAUSES,
        *,
        max_log_bytes: int = 8 << 20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._pauses = pauses
        self._max_log_bytes = max_log_bytes
        self._clock = clock
        self._keepers: dict[str, Keeper] = {}

    async def ensure(self, specification: ProcessSpecification) -> None:
        """Have it run so; what cannot be started leaves alone what runs by that name."""
        keeper = self._keeper(specification.name)
        wanted = keeper.wanted
        if wanted is None or wanted.needs_restart_for(specification):
            check(specification)
        keeper.want(specification)

    async def remove(self, name: str) -> None:
        """End it, also one that an agent before this one left running."""
        await self._keeper(name).end()

    def report(self, name: str) -> ProcessReport:
        """Tell how it is."""
        if keeper := self._keepers.get(name):
            return keeper.report()
        return ProcessReport(name=name, state=ProcessState.STOPPED, since=0)

    def reports(self) -> tuple[ProcessReport, ...]:
        """Tell how all are that are wanted, or not gone yet."""
        return tuple(
            report
            for keeper in self._keepers.values()
            if (report := keeper.report()).state is not ProcessState.STOPPED or keeper.wanted
        )

    def collect_adopted(self) -> None:
        """Collect the ended processes that init has adopted, where the agent is init (process 1).

        Not those that were started here: their keepers do.
        """
        own = {report.pid for report in self.reports()}
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid in own:
                return  # the next look finds what is behind it
            os.waitpid(ended.si_pid, os.WNOHANG)

    async def close(self) -> None:
        """End all that is left, at once."""
        await asyncio.gather(*(keeper.end() for keeper in self._keepers.values()))

    def _keeper(self, name: str) -> Keeper:
        if not _NAME.fullmatch(name):
            raise SupervisionError(f"{name!r} is not a name for a process.")
        if name not in self._keepers:
            logs = make_directory(self._directory.logs, mode=0o711)
            run = make_directory(self._directory.run, mode=0o711)
            log = LogFile(logs / f"{name}.log", self._max_log_bytes)
            self._keepers[name] = Keeper(
                name, log, run / f"{name}.pid", self._pauses, clock=self._clock
            )
        return self._keepers[name]


if TYPE_CHECKING:
    _: type[Supervisor] = ProcessSupervisor
