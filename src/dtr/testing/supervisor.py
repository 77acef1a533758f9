"""A supervisor that runs nothing and remembers everything, for tests of components."""

import time
from typing import TYPE_CHECKING

from dtr.ucp.agent.port import ProcessSpecification, SupervisionError, Supervisor
from dtr.ucp.model import ProcessReport, ProcessState


class RecordingSupervisor:
    """Implements `Supervisor`: `processes` are what would run now, by name.

    A process is starting until the test says `set_ready(name)`, unless `is_ready_at_once`.

        supervisor = RecordingSupervisor()
        await component.converge(wanted)
        assert supervisor.processes["etcd"].user == "etcd"
        supervisor.set_ready("etcd")
    """

    def __init__(self, *, is_ready_at_once: bool = False) -> None:
        self.processes: dict[str, ProcessSpecification] = {}
        self.calls: list[str] = []
        """What was done, in order: `start etcd`, `restart etcd`, `reload etcd`, `remove etcd`."""
        self.refused: dict[str, str] = {}
        """By name, the sentence that `ensure` raises as `SupervisionError`."""
        self._is_ready_at_once = is_ready_at_once
        self._pid = 0
        self._reports: dict[str, ProcessReport] = {}

    async def ensure(self, specification: ProcessSpecification) -> None:
        """Remember it, and what a supervisor would have had to do."""
        name = specification.name
        if name in self.refused:
            raise SupervisionError(self.refused[name])
        before = self.processes.get(name)
        self.processes[name] = specification
        if before is None:
            self._begin("start", name)
        elif before.needs_restart_for(specification):
            self._begin("restart", name)
        elif before.reload_key != specification.reload_key:
            self.calls.append(f"reload {name}")

    async def remove(self, name: str) -> None:
        """Forget it."""
        if self.processes.pop(name, None) is not None:
            self.calls.append(f"remove {name}")
            self.set_state(name, ProcessState.STOPPED)

    def report(self, name: str) -> ProcessReport:
        """Tell what the test said last."""
        stopped = ProcessReport(name=name, state=ProcessState.STOPPED, since=0)
        return self._reports.get(name, stopped)

    def reports(self) -> tuple[ProcessReport, ...]:
        """Tell how all are."""
        return tuple(self._reports.values())

    def set_ready(self, *names: str) -> None:
        """Say that these are ready from now on."""
        for name in names:
            assert name in self.processes, f"nobody asked for {name}"
            self.set_state(name, ProcessState.READY)

    def set_state(self, name: str, state: ProcessState, message: str = "") -> None:
        """Say how a process is from now on."""
        pid = None if state is ProcessState.STOPPED else self._pid
        self._reports[name] = ProcessReport(
            name=name, state=state, pid=pid, since=time.time(), message=message
        )

    def _begin(self, what: str, name: str) -> None:
        self.calls.append(f"{what} {name}")
        self._pid += 1
        state = ProcessState.READY if self._is_ready_at_once else ProcessState.STARTING
        self.set_state(name, state)


if TYPE_CHECKING:
    _: type[Supervisor] = RecordingSupervisor
