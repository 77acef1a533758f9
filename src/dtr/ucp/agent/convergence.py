"""Has the components bring the node closer to what is wanted, such that none hinders another."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from pydantic import JsonValue, ValidationError

from dtr.model.failures import reason_of
from dtr.ucp.agent.port import Component
from dtr.ucp.model import Wanted

_LOG = structlog.get_logger()
_LEAST_STOP_SECONDS: Final = 10
_MESSAGE_CHARACTERS: Final = 500
_OWN: Final = "dtr."
_UNEXPECTED: Final = "something unexpected went wrong; the log of this node's agent has what"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long components may take."""

    turn_seconds: float = 2
    """The next component is not kept waiting for longer."""
    patience_seconds: float = 30
    """After these it is one of the node's problems."""
    longest_seconds: float = 180
    """After these its turn is cut short, and begins again."""
    report_seconds: float = 2


@dataclass(slots=True)
class _Progress:
    """Where a component is."""

    component: Component
    task: "asyncio.Task[None] | None" = None
    began: float = 0
    revision: int = 0
    """What it is being brought to."""
    carried_out: int = 0
    """What it was brought to, or tried to be, last."""
    problem: str = ""
    report_problem: str = ""


class Convergence:
    """The node's components, in their order; to be used by one task, `reports` by any."""

    def __init__(self, components: Sequence[Component], limits: Limits) -> None:
        self._all = [_Progress(component) for component in components]
        self._limits = limits

    @property
    def carried_out(self) -> int:
        """The last revision that every component has dealt with, successfully or not."""
        return min((progress.carried_out for progress in self._all), default=0)

    @property
    def problems(self) -> list[str]:
        """What went wrong last, a sentence for each component."""
        return [
            f"{progress.component.name}: {problem}"
            for progress in self._all
            for problem in (progress.problem, progress.report_problem)
            if problem
        ]

    async def turn(self, wanted: Wanted) -> None:
        """Give each component a turn, or more time for the one that it is at."""
        for progress in self._all:
            if progress.task is None:
                name = f"converge {progress.component.name}"
                progress.task = asyncio.create_task(progress.component.converge(wanted), name=name)
                progress.began = time.monotonic()
                progress.revision = wanted.revision
            await asyncio.wait({progress.task}, timeout=self._limits.turn_seconds)
            self._judge(progress, progress.task)

    async def reports(self) -> dict[str, JsonValue]:
        """Return the components' reports by name; one that fails is left out, and a problem."""
        answers = await asyncio.gather(*(self._report(progress) for progress in self._all))
        return {name: answer for name, answer in answers if answer is not None}

    async def stop(self, seconds: float) -> None:
        """End all that runs, the last component first, within so many seconds or little more.

        Each may take what is left, but for a little for each that comes after it.
        """
        deadline = time.monotonic() + seconds
        await self._cut_short()
        for waiting, progress in reversed(list(enumerate(self._all))):
            name = progress.component.name
            least = min(_LEAST_STOP_SECONDS, seconds / (len(self._all) + 1))
            left = deadline - time.monotonic() - least * waiting
            try:
                async with asyncio.timeout(max(left, least)):
                    await progress.component.stop()
            except TimeoutError:
                _LOG.warning("a component did not stop in time", component=name)
            except Exception:  # noqa: BLE001 - the others must stop nevertheless
                _LOG.exception("a component did not stop", component=name)

    async def _cut_short(self) -> None:
        tasks = [progress.task for progress in self._all if progress.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._limits.turn_seconds)
        for progress in self._all:
            progress.task = None

    def _judge(self, progress: _Progress, task: "asyncio.Task[None]") -> None:
        if not task.done():
            lasted = time.monotonic() - progress.began
            if lasted > self._limits.longest_seconds:
                task.cancel()
            if lasted > self._limits.patience_seconds:
                self._say(progress, f"has been at it for {lasted:.0f} s without an end")
            return
        progress.task = None
        progress.carried_out = progress.revision
        if task.cancelled():
            self._say(progress, "took too long and was cut short; it is tried again")
        elif error := task.exception():
            self._say(progress, sentence(error), error)
        else:
            progress.problem = ""

    @staticmethod
    def _say(progress: _Progress, problem: str, error: BaseException | None = None) -> None:
        # Each second the same line would bury all others.
        if problem.partition(" for ")[0] != progress.problem.partition(" for ")[0]:
            _LOG.warning(
                "a component has a problem",
                component=progress.component.name,
                problem=problem,
                exc_info=error,
            )
        progress.problem = problem

    async def _report(self, progress: _Progress) -> tuple[str, JsonValue]:
        name = progress.component.name
        try:
            async with asyncio.timeout(self._limits.report_seconds):
                answer = await progress.component.report()
        except TimeoutError:
            progress.report_problem = (
                f"did not tell within {self._limits.report_seconds:g} s how it is. If that stays, "
                "see whether the machine has too much to do, or a disk that hangs."
            )
            return name, None
        except Exception as error:  # noqa: BLE001 - one of many that report
            progress.report_problem = f"cannot tell how it is: {sentence(error)}"
            return name, None
        progress.report_problem = ""
        return name, answer


def sentence(error: BaseException) -> str:
    """Return what an exception of ours says, or why another came about; shortened.

    What libraries say is in the log, with the traceback.
    """
    if type(error).__module__.startswith(_OWN):
        text = str(error) or _UNEXPECTED
    elif isinstance(error, ValidationError):
        text = (
            "What controllers want here cannot be read by this version. Install the same version "
            "of the program on all machines."
        )
    else:
        text = reason_of(error, _UNEXPECTED)
    return text if len(text) <= _MESSAGE_CHARACTERS else text[:_MESSAGE_CHARACTERS] + "…"
