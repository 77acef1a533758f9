"""Keeps one process running as it is wanted to."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from dtr.model.failures import reason_of
from dtr.ucp.agent.launch import RunningProcess
from dtr.ucp.agent.leftovers import end_leftover
from dtr.ucp.agent.logfiles import LogFile
from dtr.ucp.agent.port import ProcessSpecification, SupervisionError
from dtr.ucp.model import ProcessReport, ProcessState

_LOG = structlog.get_logger()
_UNEXPECTED: Final = "see the agent's log"
_PROBE_SECONDS: Final = 5
_KILL_SECONDS: Final = 10


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long a keeper waits for what."""

    first_seconds: float = 0.5
    """Before the first restart; twice as long before each that follows."""
    longest_seconds: float = 30
    impatient_seconds: float = 1
    """Before each restart but the first of a process that must be there at once."""
    steady_seconds: float = 10
    """Who was ready for so long begins with the shortest pause again."""
    starting_seconds: float = 0.5
    """Between looks at one that is not ready."""
    ready_seconds: float = 3
    """Between looks at one that is."""
    signal_seconds: float = 10
    """After these it is taken to understand its reload signal though it is not ready."""


class Keeper:
    """Starts a process, looks after it, and starts it again; one task does it all.

    `want` and `end` say what is wanted; the task brings it about, and alone touches the process.
    """

    def __init__(
        self,
        name: str,
        log: LogFile,
        pid_file: Path,
        pauses: Pauses,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._log = log
        self._pid_file = pid_file
        self._pauses = pauses
        self._clock = clock
        self._wanted: ProcessSpecification | None = None
        self._wake = asyncio.Event()
        """Set when there may be something to do: it ended, or something else is wanted."""
        self._task: asyncio.Task[None] | None = None
        self._process: RunningProcess | None = None
        self._state = ProcessState.STOPPED
        self._since = clock()
        self._changed_at = time.monotonic()
        self._message = ""
        self._restarts = 0
        self._failures = 0
        """Ends in a row that nobody asked for."""
        self._has_looked_back = False
        self._gone = asyncio.Event()
        """Set when no process runs, and none of an agent before this one."""

    @property
    def wanted(self) -> ProcessSpecification | None:
        """What is to run, if anything is."""
        return self._wanted

    def want(self, specification: ProcessSpecification) -> None:
        """Have it run so, from soon on."""
        before, self._wanted = self._wanted, specification
        if before is None or before.needs_restart_for(specification):
            self._failures = 0
            self._wake.set()
        elif before.reload_key != specification.reload_key:
            self._wake.set()
        self._see_to_it()

    async def end(self) -> None:
        """End it; returns when it is gone, which a cancelled caller does not hinder."""
        self._wanted = None
        self._wake.set()
        self._see_to_it()
        await self._gone.wait()

    def report(self) -> ProcessReport:
        """Tell how it is."""
        return ProcessReport(
            name=self._name,
            state=self._state,
            pid=None if self._process is None else self._process.pid,
            since=self._since,
            restarts=self._restarts,
            message=self._message,
        )

    def _see_to_it(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._keep(), name=f"keeper of {self._name}")

    async def _keep(self) -> None:
        if not self._has_looked_back:
            if self._pid_file.exists():
                self._set(ProcessState.STARTING, "waits until what a dead agent left has ended")
            await end_leftover(self._pid_file)
            self._has_looked_back = True
            self._gone.set()
        while self._wanted is not None:
            try:
                await self._run_once(self._wanted)
            except Exception as error:  # noqa: BLE001 - the outermost loop of a process
                _LOG.exception("a process could not be looked after", process=self._name)
                await self._fail(f"could not be looked after: {reason_of(error, _UNEXPECTED)}")
        self._set(ProcessState.STOPPED, "")

    async def _run_once(self, specification: ProcessSpecification) -> None:
        try:
            process = RunningProcess(specification, self._log, self._pid_file, self._wake.set)
        except (OSError, SupervisionError) as error:
            why = str(error) if isinstance(error, SupervisionError) else reason_of(error)
            await self._fail(f"cannot be started: {why}")
            return
        _LOG.info("a process was started", process=self._name, pid=process.pid)
        self._process = process
        self._gone.clear()
        try:
            self._set(ProcessState.STARTING, self._message)
            was_asked = await self._attend(process)
        finally:
            # Only where something went wrong does it still run: it is not to run unattended.
            process.kill()
            await process.ended.wait()
            self._process = None
            self._gone.set()
        if was_asked:
            _LOG.info("a process was stopped", process=self._name, ending=process.ending)
        else:
            self._restarts += 1
            await self._fail(process.ending, self._log.last_line(process.log_start))

    async def _attend(self, process: RunningProcess) -> bool:
        """Look after a process until it has ended; return whether somebody wanted it to."""
        started = time.monotonic()
        while not process.ended.is_set():
            self._wake.clear()
            wanted = self._wanted
            if wanted is None or process.specification.needs_restart_for(wanted):
                await self._stop(process)
                return True
            lasted = time.monotonic() - started
            self._reload(process, wanted, lasted)
            is_ready = wanted.is_ready is None or await self._answers(wanted.is_ready)
            if self._wake.is_set():
                continue
            self._judge(process, wanted, lasted, is_ready=is_ready)
            if self._log.is_full():
                await self._rotate()
            pauses = self._pauses
            await self._sleep(pauses.ready_seconds if is_ready else pauses.starting_seconds)
        return False

    def _reload(self, process: RunningProcess, wanted: ProcessSpecification, lasted: float) -> None:
        loaded = process.specification.reload_key
        process.specification = replace(wanted, reload_key=loaded)
        if loaded == wanted.reload_key:
            return
        # Before it has come to say what the signal means, the signal would end it.
        if self._state is ProcessState.READY or lasted > self._pauses.signal_seconds:
            process.specification = wanted
            process.send(wanted.reload_signal)
            _LOG.info("a process was told to reload", process=self._name)

    async def _answers(self, is_ready: Callable[[], Awaitable[bool]]) -> bool:
        """Ask, unless something happens meanwhile; whatever goes wrong there means no."""
        asking = asyncio.create_task(_ask(is_ready))
        waking = asyncio.create_task(self._wake.wait())
        both = (asking, waking)
        try:
            await asyncio.wait(both, timeout=_PROBE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done() or asking.cancelled() or asking.exception() is not None:
                return False
            return asking.result()
        finally:
            asking.cancel()
            waking.cancel()

    def _judge(
        self,
        process: RunningProcess,
        wanted: ProcessSpecification,
        lasted: float,
        *,
        is_ready: bool,
    ) -> None:
        if is_ready:
            self._set(ProcessState.READY, "")
            if self._has_been_steady():
                self._failures = 0
            return
        was_ready = self._state is ProcessState.READY
        message = "was ready, and does not answer" if was_ready else self._message
        if not was_ready and lasted > wanted.ready_seconds:
            tail = _quoted(self._log, self._log.last_line(process.log_start))
            message = f"runs for {lasted:.0f} s and is not ready{tail}"
        self._set(ProcessState.STARTING, message)

    def _has_been_steady(self) -> bool:
        lasted = time.monotonic() - self._changed_at
        return self._state is ProcessState.READY and lasted >= self._pauses.steady_seconds

    async def _stop(self, process: RunningProcess) -> None:
        specification = process.specification
        self._set(ProcessState.STOPPING, "")
        process.send(specification.stop_signal)
        if await _in_time(process.ended, specification.stop_seconds):
            return
        _LOG.warning("a process does not stop and is killed", process=self._name)
        process.kill()
        if not await _in_time(process.ended, _KILL_SECONDS):
            self._message = (
                "was killed and does not end: it waits for a disk or mount that does not answer"
            )
            await process.ended.wait()

    async def _rotate(self) -> None:
        try:
            await asyncio.to_thread(self._log.rotate)
        except OSError as error:
            _LOG.warning("a log was not kept", path=str(self._log.path), error=str(error))

    async def _fail(self, what: str, last_line: str = "") -> None:
        """Say what happened, and wait until it is time to try again."""
        if self._has_been_steady():
            self._failures = 0
        self._failures += 1
        times = f", {self._failures} times" if self._failures > 1 else ""
        self._set(ProcessState.BACKING_OFF, f"{what}{times}{_quoted(self._log, last_line)}")
        pause = self._pause()
        _LOG.warning(
            "a process ended", process=self._name, message=self._message, pause_seconds=pause
        )
        self._wake.clear()
        if self._wanted is not None:
            await self._sleep(pause)

    def _pause(self) -> float:
        pauses = self._pauses
        if self._wanted is not None and not self._wanted.is_patient_after_exit:
            return 0 if self._failures == 1 else pauses.impatient_seconds
        doubled = pauses.first_seconds * 2.0 ** min(self._failures - 1, 30)
        return min(doubled, pauses.longest_seconds)

    async def _sleep(self, seconds: float) -> None:
        await _in_time(self._wake, seconds)

    def _set(self, state: ProcessState, message: str) -> None:
        if state is not self._state:
            self._state = state
            self._since = self._clock()
            self._changed_at = time.monotonic()
        self._message = message


async def _ask(is_ready: Callable[[], Awaitable[bool]]) -> bool:
    return await is_ready()


async def _in_time(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _quoted(log: LogFile, line: str) -> str:
    return f"; its log {log.path} ends: {line}" if line else f"; its log is {log.path}"
