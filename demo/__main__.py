"""Show a cluster at work: `python -m demo`, as root.

Without a terminal it runs through once and prints each step with its time. Exit status 0 only if
every push and every pull held, and everything that was pushed can be read from every replica.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live
from tests.cluster.cluster import RunningCluster
from tests.support.installation import installed_python

from demo.interrupts import Interrupts
from demo.picture import Picture
from demo.recording import Recording
from demo.scene import Scene, StepSeen
from demo.stage import Stage
from demo.story import tell
from demo.traces import Traces

_INTERRUPTED = 130
_LOOK_SECONDS = 2.0


def main() -> int:
    """Run the demonstration; give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "--record", type=Path, metavar="FILE.svg", help="write the run as a moving picture"
    )
    recording = parser.parse_args().record
    try:
        with Interrupts() as interrupts:
            return _Performance(interrupts, Recording(recording) if recording else None).give()
    except pytest.skip.Exception as reason:
        print(f"The demonstration cannot be given here: {reason.msg}", file=sys.stderr)
        return 1


class _Performance:
    """One run, from nothing to nothing."""

    def __init__(self, interrupts: Interrupts, recording: Recording | None) -> None:
        self._interrupts = interrupts
        self._recording = recording
        self._console = Console(highlight=False)
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._directory = Path(tempfile.mkdtemp(prefix="dtr-demo-"))
        self._traces = Traces(self._directory)
        self._lost: list[str] = []
        self._last: Scene | None = None
        show: Callable[[StepSeen], None] = _keep_quiet if self._is_live else _print_step
        keep: Callable[[Scene], None] = recording.keep if recording else _keep_quiet
        cluster = RunningCluster(self._directory, is_installed=False)
        self._stage = Stage(cluster, interrupts, show, keep)

    def give(self) -> int:
        """Play, take everything away, and say how it was."""
        try:
            error = self._play_to_its_end()
        except pytest.skip.Exception:
            shutil.rmtree(self._directory)
            raise
        if self._is_live and self._last is not None:
            self._console.print(Picture(self._last, is_all=True))
        if error is None:
            return self._judge()
        if self._interrupts.has_come:
            print("You ended it.", flush=True)
        else:
            print(f"It came to nothing: {_reason(error)}", file=sys.stderr)
        is_clean = self._has_left_nothing(keeps_logs=not self._interrupts.has_come)
        return _INTERRUPTED if self._interrupts.has_come and is_clean else 1

    def _play_to_its_end(self) -> BaseException | None:
        """Return what ended it too early; everything but the machines' logs is taken away."""
        with ExitStack() as stack:
            if self._is_live:
                live = Live(
                    get_renderable=self._picture,
                    console=self._console,
                    screen=True,
                )
                stack.enter_context(live)
            try:
                self._play()
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (it is told below)
                return error
        return None

    def _play(self) -> None:
        stage = self._stage
        with ExitStack() as stack:
            stack.callback(self._interrupts.refuse)
            with stage.step("DTR is installed, once for all machines"):
                installed_python()
            with stage.step("three machines, a balancer's and a client's are made"):
                with self._interrupts.held():
                    stack.enter_context(stage.cluster)
                    stack.callback(self._end)
                stage.open()
            tell(stage)
            with stage.step("everything that was pushed is read back from every replica") as step:
                self._lost = stage.lost()
                step.note = f"{len(stage.load.ledger)} images, {len(self._lost)} lost"
            stage.message = self._sum()
            stage.until_later(_LOOK_SECONDS)

    def _end(self) -> None:
        """Let the audience see how it ended while everything is taken away."""
        self._interrupts.refuse()
        self._last = self._stage.scene()
        self._traces.note(list(self._stage.cluster.machines))
        self._stage.close()

    def _picture(self) -> Picture:
        """Give what is to be seen now; from the end on, how it was when it ended."""
        if self._last is None:
            return Picture(self._stage.scene())
        word = "You end it: everything" if self._interrupts.has_come else "Everything"
        return Picture(replace(self._last, message=f"{word} is taken away …"))

    def _sum(self) -> str:
        load = self._stage.load
        failed, lost = len(load.failed_again), len(self._lost)
        return f"{load.pushes.done} pushes, {load.pulls.done} pulls: {failed} failed, {lost} lost"

    def _judge(self) -> int:
        load = self._stage.load
        repeated = len(load.pushes.failures) + len(load.pulls.failures)
        print(f"{self._sum()}; {repeated} were repeated once")
        for problem in (*load.failed_again, *self._lost):
            print(problem, file=sys.stderr)
        if self._recording:
            print(f"{self._recording.write()} frames are in {self._recording.path}")
        has_failed = bool(load.failed_again or self._lost)
        is_clean = self._has_left_nothing(keeps_logs=has_failed)
        return 0 if is_clean and not has_failed else 1

    def _has_left_nothing(self, *, keeps_logs: bool) -> bool:
        """Say what is left, which should be nothing."""
        left = self._traces.left()
        if keeps_logs:
            print(f"What the machines wrote is in {self._directory}", file=sys.stderr)
        else:
            shutil.rmtree(self._directory, ignore_errors=bool(left))
        for each in left:
            print(f"This was left behind: {each}", file=sys.stderr)
        if not left:
            print("Everything is taken away: no namespace, process or mount is left.")
        return not left


def _reason(error: BaseException) -> str:
    if isinstance(error, subprocess.TimeoutExpired):  # whose own words are a long command
        return f"the last step was given up after {error.timeout:.0f} s"
    return str(error) or type(error).__name__


def _print_step(step: StepSeen) -> None:
    note = "FAILED" if step.is_failed else step.note
    print(f"{step.seconds:6.1f} s  {step.title}  {note}".rstrip(), flush=True)


def _keep_quiet(_: object) -> None:
    """Leave it to the picture."""


if __name__ == "__main__":
    sys.exit(main())
