"""Show a cluster at work: `python -m demo`, as root.

Without a terminal it runs through once and prints each step with its time. Exit status 0 only if
every push and every pull held, and everything that was pushed can be read from every replica.
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live
from tests.cluster.cluster import RunningCluster

from demo.picture import Picture
from demo.stage import Stage, Step
from demo.story import tell


def main() -> int:
    """Run the demonstration; give the exit status."""
    console = Console()
    try:
        with ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="dtr-demo-"))
            show: Callable[[Step], None] = _print_step
            picture = Picture()
            if console.is_terminal:
                stack.enter_context(Live(picture, console=console, screen=True))
                show = _show_nothing
            return _play(Path(directory), picture, show, stack)
    except pytest.skip.Exception as reason:
        print(f"The demonstration cannot be given here: {reason.msg}", file=sys.stderr)
        return 1


def _play(directory: Path, picture: Picture, show: Callable[[Step], None], stack: ExitStack) -> int:
    cluster = stack.enter_context(RunningCluster(directory, is_installed=False))
    stage = picture.stage = Stage(cluster, show)
    stack.callback(stage.close)
    tell(stage)
    with stage.step("everything that was pushed is read back from every replica") as step:
        lost = stage.lost()
        step.note = f"{len(stage.load.ledger)} images, {len(lost)} lost"
    stack.close()
    return _judge(stage, lost)


def _judge(stage: Stage, lost: list[str]) -> int:
    load = stage.load
    for step in stage.steps if sys.stdout.isatty() else ():
        _print_step(step)
    print(
        f"{load.pushes.done} pushes and {load.pulls.done} pulls;"
        f" {len(load.pushes.failures) + len(load.pulls.failures)} were repeated once,"
        f" {len(load.failed_again)} failed, {len(lost)} lost"
    )
    for problem in (*load.failed_again, *lost):
        print(problem, file=sys.stderr)
    return 1 if load.failed_again or lost else 0


def _print_step(step: Step) -> None:
    print(f"{step.elapsed:6.1f} s  {step.title}  {step.note}".rstrip(), flush=True)


def _show_nothing(_: Step) -> None:
    """Leave it to the picture."""


if __name__ == "__main__":
    sys.exit(main())
