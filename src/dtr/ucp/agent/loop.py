"""The agent: fetches what its node is wanted to run, has it run, and reports how it is.

Everything goes on without controllers, by what they said last. One thing stops it all: a
controller that says that this is no node any more. Such a machine must neither serve nor vote, so
all that runs is ended, the data is kept, and the agent goes on asking now and then.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from pydantic import JsonValue, ValidationError

from dtr import __version__
from dtr.model.errors import UnavailableError
from dtr.ucp.agent.condition import look
from dtr.ucp.agent.controllers import HttpControllers
from dtr.ucp.agent.convergence import Convergence, Limits
from dtr.ucp.agent.fitting import fitted
from dtr.ucp.agent.kept import KeptWanted, RefusedError
from dtr.ucp.agent.last_known import LastKnown, LastReport, last_report_file, recall
from dtr.ucp.agent.port import Component, NodeDirectory
from dtr.ucp.agent.probe import Prober
from dtr.ucp.agent.renewal import Renewal
from dtr.ucp.agent.supervisor import ProcessSupervisor
from dtr.ucp.api import ApiError
from dtr.ucp.model import NodeIdentity, NodeReport, Wanted

_LOG = structlog.get_logger()
_REMOVED_CODES: Final = frozenset({"NODE_UNKNOWN", "NODE_REMOVED"})
_REFUSALS: Final = frozenset({401, 403})
_BREATH_SECONDS: Final = 0.1  # however fast a controller answers, it is not asked in a tight loop


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How often an agent does what, and how long it may take."""

    turn_seconds: float = 1
    report_seconds: float = 2
    remember_seconds: float = 5
    """Between two looks whether what is kept for the operator has changed."""
    poll_seconds: float = 30
    """How long a controller may keep a question; it answers after 20 s at the latest."""
    retry_seconds: float = 2
    """Between questions that are not answered."""
    removed_seconds: float = 30
    """Between questions of a machine that is no node."""
    fresh_seconds: float = 60
    """After these everything is asked for anew, not only what is new."""
    renewal_seconds: float = 60
    renewal_retry_seconds: float = 300
    stop_seconds: float = 90
    limits: Limits = field(default_factory=Limits)


_SETTINGS: Final = AgentSettings()


class Agent:
    """One node's agent. Of its tasks none waits for another."""

    def __init__(
        self,
        directory: NodeDirectory,
        identity: NodeIdentity,
        supervisor: ProcessSupervisor,
        controllers: HttpControllers,
        components: Sequence[Component],
        settings: AgentSettings = _SETTINGS,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._identity = identity
        self._supervisor = supervisor
        self._controllers = controllers
        self._settings = settings
        self._clock = clock
        self._kept = KeptWanted(directory, identity)
        self._convergence = Convergence(components, settings.limits)
        self._prober = Prober()
        self._renewal = Renewal(directory, identity.node_id, controllers, clock)
        self._last_known = LastKnown(last_report_file(directory))
        self._last: LastReport | None = None
        self._heard_at = _last_heard_at(directory)
        self._wake = asyncio.Event()
        self._is_removed = self._kept.is_removed
        self._is_at_rest = False
        """Whether everything was ended because the node was removed."""
        self._asked_anew_at = float("-inf")
        self._refusal = ""
        self._silence = ""
        if self._kept.wanted is not None:
            controllers.learn(self._kept.wanted.controllers)

    async def run(self, stop: asyncio.Event) -> None:
        """Do it all until `stop` is set; then end the components, the last one first."""
        tasks = [
            asyncio.create_task(self._over_and_over(name, step), name=name)
            for name, step in (
                ("follow", self._follow),
                ("converge", self._converge),
                ("report", self._report),
                ("remember", self._remember),
                ("renew", self._renew),
            )
        ]
        if self._is_removed:
            _LOG.warning("this machine was removed from UCP: nothing runs until it is known again")
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._end(self._settings.stop_seconds)
            await self._prober.close()
            await self._controllers.close()

    async def _end(self, seconds: float) -> None:
        """End all that runs; what is still there at the end gets its orphan signal."""
        await self._convergence.stop(seconds)
        try:
            async with asyncio.timeout(max(seconds / 9, 1)):
                await self._supervisor.close()
        except TimeoutError:
            _LOG.warning("some processes did not end in time")

    @staticmethod
    async def _over_and_over(name: str, step: Callable[[], Awaitable[float]]) -> None:
        """Take a step again and again, with the pauses that it asks for."""
        while True:
            try:
                pause = await step()
            except Exception:  # noqa: BLE001 - the outermost loop of each task
                _LOG.exception("the agent failed at something and goes on", task=name)
                pause = 1
            await asyncio.sleep(pause)

    async def _follow(self) -> float:
        """Ask what is wanted, and take the answer."""
        after = 0 if self._must_ask_anew() or self._kept.wanted is None else self._revision
        asked_at = time.monotonic()
        try:
            path = f"/agent/wanted?after={after}"
            answer = await self._controllers.call("GET", path, seconds=self._settings.poll_seconds)
        except ApiError as error:
            self._asked_anew_at = float("-inf")
            return await self._be_refused(error)
        except UnavailableError as error:
            # They may come back with another store: one that was restored counts anew.
            self._asked_anew_at = float("-inf")
            self._note_silence(str(error))
            return self._settings.retry_seconds
        if not after:
            self._asked_anew_at = asked_at
        self._note_silence("")
        if answer is not None:
            await self._take(answer)
        is_held = time.monotonic() - asked_at > self._settings.retry_seconds
        if self._refusal or (answer is None and not is_held):
            return self._settings.retry_seconds
        return _BREATH_SECONDS

    def _must_ask_anew(self) -> bool:
        since = time.monotonic() - self._asked_anew_at
        return self._is_removed or since > self._settings.fresh_seconds

    @property
    def _revision(self) -> int:
        return self._kept.wanted.revision if self._kept.wanted is not None else 0

    async def _take(self, answer: JsonValue) -> None:
        try:
            wanted = Wanted.model_validate(answer)
            is_changed = await asyncio.to_thread(self._kept.accept, wanted)
        except ValidationError as error:
            # Not in the log: the answer itself, which has secrets.
            where = ".".join(map(str, error.errors(include_input=False)[0]["loc"]))
            self._refuse(f"A controller's answer cannot be understood ({where}). Upgrade the node.")
            return
        except RefusedError as error:
            self._refuse(str(error))
            return
        self._refusal = ""
        self._controllers.learn(wanted.controllers)
        if self._is_removed:
            self._kept.unmark_removed()
            self._is_removed = False
            _LOG.warning("this machine is a node of UCP again")
        if is_changed:
            _LOG.info("something new is wanted", revision=wanted.revision)
            self._wake.set()

    def _refuse(self, refusal: str) -> None:
        if refusal != self._refusal:
            _LOG.error("a controller's answer was refused", why=refusal)
        self._refusal = refusal

    def _note_silence(self, problem: str) -> None:
        if bool(problem) != bool(self._silence):
            if problem:
                _LOG.warning("no controller answers; all goes on as it is", why=problem)
            else:
                _LOG.info("a controller answers")
        self._silence = problem

    async def _be_refused(self, error: ApiError) -> float:
        self._note_silence("")
        if error.status in _REFUSALS and error.code in _REMOVED_CODES:
            if not self._is_removed:
                _LOG.error(
                    "a controller says that this machine is no node any more", why=str(error)
                )
                self._is_removed = True
                self._wake.set()
                self._kept.mark_removed()
            return self._settings.removed_seconds
        self._refuse(f"A controller refuses this node: {error}")
        return self._settings.retry_seconds

    async def _converge(self) -> float:
        """Give every component a turn, or end them all."""
        self._wake.clear()
        if self._is_removed:
            if not self._is_at_rest:
                self._prober.want(None)
                await self._end(self._settings.stop_seconds)
                self._is_at_rest = True
                _LOG.warning("nothing runs on this machine any more; its data is kept")
        elif self._kept.wanted is not None:
            self._is_at_rest = False
            self._prober.want(self._kept.wanted.probe)
            await self._convergence.turn(self._kept.wanted)
        try:
            async with asyncio.timeout(self._settings.turn_seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        return 0

    async def _report(self) -> float:
        """Tell how the node is; what is not heard is not told again, the next report is newer."""
        if not self._is_removed:
            report = await self.report()
            body = report.model_dump(mode="json")
            silence = ""
            try:
                await self._controllers.call("POST", "/agent/report", body)
                self._heard_at = report.at
            except ApiError as error:
                silence = str(error)
                await self._be_refused(error)
            except UnavailableError as error:
                silence = str(error)
                _LOG.debug("a report was not heard", error=silence)
            self._last = LastReport(report=report, heard_at=self._heard_at, silence=silence)
        return self._settings.report_seconds

    async def _remember(self) -> float:
        """Keep on the disk what was told last: `ucp status` shows it where no controller answers.

        A task of its own, so that a disk that hangs keeps no report waiting.
        """
        if self._last is not None:
            kept = self._last.model_dump(mode="json")
            await asyncio.to_thread(self._last_known.keep, kept)
        return self._settings.remember_seconds

    async def report(self) -> NodeReport:
        """Return how the node is now."""
        services = await self._convergence.reports()
        now = self._clock()
        wanted = self._kept.wanted
        condition = await asyncio.to_thread(look, self._directory, self._identity, wanted, now)
        problems = (
            *condition.problems,
            *self._kept.problems,
            *filter(None, (self._refusal, self._renewal.problem)),
            *self._convergence.problems,
        )
        whole = NodeReport(
            node_id=self._identity.node_id,
            at=now,
            version=__version__,
            revision=self._convergence.carried_out,
            processes=self._supervisor.reports(),
            services=services,
            probe=self._prober.report,
            disk_total_bytes=condition.disk_total_bytes,
            disk_free_bytes=condition.disk_free_bytes,
            memory_total_bytes=condition.memory_total_bytes,
            certificate_expires_at=condition.certificate_expires_at,
            problems=problems,
            takes_keys=True,
        )
        return fitted(whole)

    async def _renew(self) -> float:
        if self._is_removed or await self._renewal.turn():
            return self._settings.renewal_seconds
        return self._settings.renewal_retry_seconds


def _last_heard_at(directory: NodeDirectory) -> float:
    """Return when a controller last heard the agent that ran before this one."""
    try:
        kept = recall(last_report_file(directory))
        return LastReport.model_validate(kept.document).heard_at if kept else 0
    except (OSError, ValidationError):
        return 0
