"""What a node knows by itself, for the hour in which no controller answers."""

import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import httpx
from pydantic import ValidationError

from dtr.cli.ucp.agents import agent_pid
from dtr.model.failures import reason_of
from dtr.ucp.agent.last_known import (
    LastReport,
    Recalled,
    last_report_file,
    last_status_file,
    recall,
)
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.client import NO_MAJORITY, UcpError
from dtr.ucp.model import NodeIdentity, Wanted

_HEALTH_SECONDS: Final = 5.0
_MOST_BYTES: Final = 64 * 1024
_REPLICA: Final = "replica"
_LATE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class ThisNode:
    """A node as its own disk and its own processes tell of it; nobody else was asked."""

    name: str
    address: str
    controllers: Mapping[str, str]
    """Those that were tried, `address:port`, and why each cannot be worked with."""
    is_manager: bool
    is_agent_running: bool
    report: Mapping[str, Any] | None
    """The `NodeReport` that the agent made last."""
    report_age_seconds: float | None
    heard_seconds_ago: float | None
    """Since a controller heard this node last."""
    registry_health: str | None
    """`OK`, or what the registry's own `/health` says or why it says nothing; None: no replica."""
    status: Mapping[str, Any] | None
    """The cluster's status as a controller told it last."""
    status_age_seconds: float | None

    def shown(self) -> dict[str, Any]:
        """Return it as JSON can carry it, with what to do."""
        return {"is_control_plane_answering": False, **asdict(self), "advice": self.advice()}

    def advice(self) -> list[str]:
        """Return what an operator should know and do, a sentence or two each; pure."""
        found = []
        if not self.is_agent_running:
            found.append(
                "The agent of this machine does not run. Nothing here is supervised, and what is "
                "shown is old. Start it: systemctl start ucp-agent."
            )
        elif self.report_age_seconds is None or self.report_age_seconds > _LATE_SECONDS:
            found.append(
                "The agent of this machine runs, but has not written its state for some time. See "
                "its log, and whether the disk is full."
            )
        found.append(
            "What runs goes on: pulls work, and pushes work while the primary and a majority of "
            "the replicas run. Until a majority of the managers is back, no node can join or "
            "leave, and there is no failover."
        )
        return [*found, *self._about_managers()]

    def _about_managers(self) -> list[str]:
        count = len(self.controllers)
        needed = count // 2 + 1
        silent = [each for each, why in self.controllers.items() if why != NO_MAJORITY]
        lacking = needed - (count - len(silent))
        if not silent:
            why = (
                "All managers run, and their etcd finds no majority. If that lasts longer than a "
                "minute, see that they reach one another at ports 2379 and 2380, and etcd.log in "
                "the log directory of each."
            )
            return [why]
        if count == 1:
            where = "this machine" if self.is_manager else silent[0]
            why = (
                f"There is one manager, {where}. Start it and its agent, and see controller.log "
                "and etcd.log in its log directory; if it is lost for ever: ucp restore."
            )
            return [why]
        names = ", ".join(self._called(each) for each in silent)
        start = (
            f"Of {count} managers {needed} are needed. Start {max(1, lacking)} of these, or see "
            f"why they cannot be reached from here: {names}. It recovers by itself when they "
            "are back: a machine that starts needs a minute or two."
        )
        found = [start]
        if len(silent) == count and not self.is_manager:
            found.append(
                "None of them can be reached: this machine itself may be cut off. Check its "
                "network first."
            )
        here = "on this machine" if self.is_manager else "on a manager that is left"
        found.append(
            f"If so many of them are lost for ever, switched off or wiped, that {needed} can never "
            f"run again: ucp emergency-repair, as root {here}. Do not run it while they are only "
            "cut off: they would go on by themselves."
        )
        return found

    def _called(self, controller: str) -> str:
        """Return a controller with its machine's name, where the last status has it."""
        host = controller.rpartition(":")[0].strip("[]")
        managers = (self.status or {}).get("managers", ())
        known = {each.get("address"): each["node"] for each in managers}
        return f"{known[host]} ({controller})" if host in known else controller


def look_at_this_node(
    directory: NodeDirectory, identity: NodeIdentity, controllers: Mapping[str, str]
) -> ThisNode:
    """Return what this node knows; asks nobody but its own registry.

    Raises:
        UcpError: its files are another user's.

    """
    try:
        wanted = _wanted(directory)
        kept, status = recall(last_report_file(directory)), recall(last_status_file(directory))
    except PermissionError as error:
        raise UcpError(
            f"What this node knows by itself is in {directory.root}, and {error.filename} is for "
            "the agent's user only.",
            "Run this as root to see it.",
        ) from None
    report = _report(kept)
    return ThisNode(
        name=identity.name,
        address=identity.host_address,
        controllers=controllers,
        is_manager=wanted is not None and wanted.controller is not None,
        is_agent_running=agent_pid(directory) is not None,
        report=report.report.model_dump(mode="json") if report else None,
        report_age_seconds=_rounded(kept.age_seconds) if kept and report else None,
        heard_seconds_ago=(
            _rounded(max(0.0, time.time() - report.heard_at))
            if report and report.heard_at
            else None
        ),
        registry_health=_registry_health(wanted),
        status=status.document if status and isinstance(status.document, dict) else None,
        status_age_seconds=_rounded(status.age_seconds) if status else None,
    )


def _wanted(directory: NodeDirectory) -> Wanted | None:
    try:
        return Wanted.model_validate_json(directory.wanted.read_bytes())
    except PermissionError:
        raise
    except (OSError, ValidationError):
        return None


def _report(kept: Recalled | None) -> LastReport | None:
    try:
        return LastReport.model_validate(kept.document) if kept else None
    except ValidationError:
        return None


def _registry_health(wanted: Wanted | None) -> str | None:
    """Return what the registry that runs here says of itself."""
    service = wanted.services.get(_REPLICA) if wanted else None
    if not isinstance(service, dict) or not isinstance(service.get("https_port"), int):
        return None
    # Whatever certificate it shows, the user's or UCP's: it is this machine that is asked, and
    # nothing is told to it.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    url = f"https://127.0.0.1:{service['https_port']}/health"
    try:
        answer = httpx.get(url, verify=context, timeout=_HEALTH_SECONDS, trust_env=False)
    except httpx.TransportError as error:
        return f"it does not answer at port {service['https_port']} ({reason_of(error)})"
    return "OK" if answer.is_success else _problem_in(answer)


def _problem_in(answer: httpx.Response) -> str:
    try:
        told = json.loads(answer.content[:_MOST_BYTES])
    except ValueError:
        told = None
    problem = told.get("Error") if isinstance(told, dict) else ""
    return str(problem or f"/health answers {answer.status_code}")


def _rounded(seconds: float) -> float:
    return round(seconds, 1)
