"""The web workers: Granian's, replaced one after the other without a moment that nobody listens."""

import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import structlog
from granian.server.mp import MPServer

from dtr.server.parent import STOP_LISTENING, held_signals

_LOG = structlog.get_logger()
_READY_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.2
_CRASH_SECONDS: Final = 5.5
_BEGIN_SECONDS: Final = 2.0
"""In which what a leaving worker accepted last agrees upon TLS and sends its request."""

_Worker = Any
"""Granian's handle of a worker's process, which it does not type."""

Load = Callable[[Callable[[], None]], Any]
"""Makes a worker's application, which calls the argument as soon as it is served."""


class WebServer(MPServer):
    """Granian's server of several processes, of which this one differs in three ways.

    At SIGHUP each worker is followed by a new one that listens before the old one stops listening;
    that one is told to end a moment later, for what it accepted last is no request yet. It finishes
    what it has in flight, and nobody waits for it. A worker heeds a signal
    that comes while it starts. No signal is lost that comes while another is attended to.
    """

    def __init__(self, *, drain_seconds: float, **options: Any) -> None:
        super().__init__(workers_kill_timeout=max(1, round(drain_seconds)), **options)
        self._drain_seconds = max(1.0, drain_seconds)
        self._leaving: list[threading.Thread] = []
        self._find_problem: Callable[[], str] = str

    def run(self, load: Load, find_problem: Callable[[], str]) -> None:
        """Serve until SIGTERM or SIGINT.

        `find_problem` is called at SIGHUP; where it returns one, all stays as it is.
        """
        self._find_problem = find_problem
        self.serve(target_loader=load, wrap_loader=False)
        for each in self._leaving:
            each.join()

    def _spawn_workers(self, spawn_target: Any, target_loader: Load) -> None:
        for index in range(self.workers):
            worker, reader = self._start(index, spawn_target, target_loader)
            os.close(reader)
            self.wrks.append(worker)

    def _start(self, index: int, target: Any, load: Load) -> tuple[_Worker, int]:
        """Start a worker; return it, and what it writes to once it is served."""
        reader, writer = os.pipe()
        worker: _Worker = self._spawn_worker(index, target, partial(load, partial(_tell, writer)))
        with held_signals():
            worker.start()
        os.close(writer)
        return worker, reader

    def _serve_loop(self, spawn_target: Any, target_loader: Load) -> None:
        while not self.interrupt_signal:
            self.main_loop_interrupt.wait()
            # First of all, so that whatever comes from here on is seen in the next round.
            self.main_loop_interrupt.clear()
            if self.interrupt_children and not self.interrupt_signal:
                ended, self.interrupt_children = self.interrupt_children, []
                if self._are_crashing(ended):
                    self.interrupt_children = ended  # the exit status says so
                    return
                for index in ended:
                    self.respawned_wrks[index] = time.monotonic()
                    self.wrks[index], reader = self._start(index, spawn_target, target_loader)
                    os.close(reader)
            if self.reload_signal and not self.interrupt_signal:
                self.reload_signal = False
                self._reload(spawn_target, target_loader)

    def _are_crashing(self, indexes: list[int]) -> bool:
        now = time.monotonic()
        recent = (self.respawned_wrks.get(index, float("-inf")) for index in indexes)
        if not any(now - at <= _CRASH_SECONDS for at in recent):
            return False
        _LOG.error("a web worker ends again and again; the server gives up")
        return True

    def _reload(self, spawn_target: Any, target_loader: Load) -> None:
        """Replace all workers, so that they read the certificate as it is now."""
        problem = self._find_problem()
        if problem:
            _LOG.error("not reloaded: all stays as it is", reason=problem)
            return
        for index in range(self.workers):
            worker, reader = self._start(index, spawn_target, target_loader)
            if not self._is_served(reader):
                _LOG.error("not reloaded: a new web worker does not answer")
                self._leave(worker)
                return
            old, self.wrks[index] = self.wrks[index], worker
            self._leave(old)
        _LOG.info("reloaded", workers=self.workers)

    def _is_served(self, reader: int) -> bool:
        """Wait until a new worker is served, unless it ends, or the whole server is to end."""
        deadline = time.monotonic() + _READY_SECONDS
        try:
            while time.monotonic() < deadline and not self.interrupt_signal:
                if select.select([reader], [], [], _LOOK_SECONDS)[0]:
                    return bool(os.read(reader, 1))
        finally:
            os.close(reader)
        return False

    def _leave(self, worker: _Worker) -> None:
        """Have a worker end; see to it on a thread, for a download may take its time."""
        thread = threading.Thread(target=self._see_off, args=(worker,), name="leaving worker")
        self._leaving = [each for each in self._leaving if each.is_alive()] + [thread]
        thread.start()

    def _see_off(self, worker: _Worker) -> None:
        # One that did not come to be served has nobody to finish with: it holds the signal back.
        with suppress(ProcessLookupError):
            os.kill(worker.inner.pid, STOP_LISTENING)
        worker.join(_BEGIN_SECONDS)
        worker.terminate()
        worker.join(self._drain_seconds)
        time.sleep(_LOOK_SECONDS)  # another thread may be about to learn of its end
        if worker.is_alive():
            _LOG.warning("a web worker did not end in time", seconds=self._drain_seconds)
            worker.kill()


def _tell(writer: int) -> None:
    with suppress(BrokenPipeError):  # nobody waits for the first workers
        os.write(writer, b".")
    os.close(writer)
