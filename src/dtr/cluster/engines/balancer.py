"""Service `balancer` of a node: HAProxy, with a pool that follows the cluster."""

import asyncio
import csv
import io
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from pydantic import JsonValue

from dtr.cluster.engines.haproxy import HTTPS_BACKEND, MOST_CONNECTIONS, Frontend, render
from dtr.cluster.engines.web_certificate import has_roots
from dtr.cluster.model import BALANCER_SERVICE, BalancerReport, BalancerSpecification
from dtr.ucp.agent.convergence import sentence
from dtr.ucp.agent.files import make_directory, write_for
from dtr.ucp.agent.port import (
    Component,
    Controllers,
    NodeDirectory,
    ProcessSpecification,
    SupervisionError,
    Supervisor,
)
from dtr.ucp.agent.users import user_for
from dtr.ucp.model import NodeIdentity, ProcessState, Wanted

PROCESS: Final = "haproxy"

_PATH: Final = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/usr/local/bin", "/usr/bin"))
_LOWEST_FREE_PORT: Final = 1024
_CHECK_SECONDS: Final = 10.0
_SOFT_STOP_SECONDS: Final = 60.0
_ANSWER_SECONDS: Final = 1.0
_MAX_ANSWER_BYTES: Final = 1 << 20
_MAX_QUOTED: Final = 500
_FILES_OF_A_CONNECTION: Final = 2
_OTHER_OPEN_FILES: Final = 200
_LEAST_CONNECTIONS: Final = 100


_LOG = structlog.get_logger()


class BalancerProblemError(Exception):
    """The balancer is not as wanted; a sentence of what and what to do."""


class BalancerComponent:
    """Runs HAProxy in master-worker mode; a changed pool is a reload that drops no connection.

    A configuration is put in place only after HAProxy itself has found it valid, so that neither a
    reload nor a restart can meet one that is not.
    """

    def __init__(
        self,
        identity: NodeIdentity,
        directory: NodeDirectory,
        supervisor: Supervisor,
        controllers: Controllers,  # noqa: ARG002 - every component is given the same
    ) -> None:
        self._identity = identity
        self._directory = directory
        self._supervisor = supervisor
        self._root = directory.of(BALANCER_SERVICE)
        self._specification: BalancerSpecification | None = None
        self._ending: asyncio.Task[None] | None = None
        self._is_gone = False
        self._problem = ""
        self._checked = ""

    @property
    def name(self) -> str:
        """For the log and the report."""
        return BALANCER_SERVICE

    @property
    def _configuration(self) -> Path:
        return self._root / "haproxy.cfg"

    @property
    def _socket(self) -> Path:
        return self._root / "haproxy.sock"

    async def converge(self, wanted: Wanted) -> None:
        """Bring the balancer a step closer to what is wanted; without a specification it ends.

        Raises:
            BalancerProblemError, SupervisionError, OSError: it cannot; the message says why.

        """
        given = wanted.services.get(BALANCER_SERVICE)
        specification = None if given is None else BalancerSpecification.model_validate(given)
        self._specification = specification
        if self._ending is not None:
            if not self._ending.done():
                return
            ending, self._ending = self._ending, None
            ending.result()
        if specification is None or specification.is_leaving:
            if not self._is_gone:
                self._ending = asyncio.create_task(self._end())
            return
        self._is_gone = False
        self._problem = ""
        try:
            await self._run(specification)
        except (BalancerProblemError, SupervisionError, OSError) as error:
            self._problem = sentence(error)
            raise

    async def report(self) -> JsonValue:
        """Return a `BalancerReport`; None where no balancer is wanted."""
        specification = self._specification
        if specification is None:
            return None
        process = self._supervisor.report(PROCESS)
        states: dict[str, str] = {}
        if process.state is ProcessState.READY:
            try:
                states = pool_states(await self._ask("show stat"), specification)
            except (OSError, TimeoutError, ValueError):
                states = {}
        report = BalancerReport(
            is_ready=bool(states),
            pool=states,
            message=self._problem or process.message,
            is_gone=self._is_gone,
        )
        return report.model_dump(mode="json")

    async def stop(self) -> None:
        """End HAProxy because the agent ends."""
        if self._ending is not None:
            await asyncio.gather(self._ending, return_exceptions=True)
        await self._supervisor.remove(PROCESS)

    async def _run(self, specification: BalancerSpecification) -> None:
        program = shutil.which("haproxy", path=_PATH)
        if program is None:
            raise BalancerProblemError(
                "HAProxy is not on this machine. Install it: apt-get install haproxy."
            )
        user = user_for(self._identity, "balancer")
        make_directory(self._root, user=user)
        own = self._directory.ca.read_text(encoding="ascii").rstrip()
        trusted = f"{own}\n{specification.web_certificate}"
        ca = write_for(self._root / "ca.crt", trusted, user=user)
        content = render(
            specification.pool,
            Frontend(
                specification.https_port,
                specification.http_port,
                ca=self._root / "ca.crt",
                socket=self._socket,
                address="::" if ":" in self._identity.host_address else "*",
                source=self._identity.host_address,
                can_verify=has_roots(specification.web_certificate),
                most_connections=_most_connections(),
            ),
        )
        if content != self._checked:
            await self._check(program, content, user)
            self._checked = content
        written = write_for(self._configuration, content, user=user)
        ports = (specification.https_port, specification.http_port)
        await self._supervisor.ensure(
            ProcessSpecification(
                name=PROCESS,
                command=(program, "-W", "-f", str(self._configuration)),
                user=user,
                directory=self._root,
                may_bind_low_ports=any(port < _LOWEST_FREE_PORT for port in ports),
                reload_key=f"{written} {ca}",
                reload_signal=signal.SIGUSR2,
                stop_signal=signal.SIGUSR1,
                stop_seconds=_SOFT_STOP_SECONDS,
                is_ready=self._is_answering,
            )
        )

    async def _check(self, program: str, content: str, user: str) -> None:
        candidate = self._root / "candidate.cfg"
        write_for(candidate, content, user=user)
        try:
            done = await asyncio.to_thread(
                subprocess.run,
                (program, "-c", "-q", "-f", str(candidate)),
                check=False,
                capture_output=True,
                text=True,
                timeout=_CHECK_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise BalancerProblemError(
                "HAProxy does not finish its check of the configuration."
            ) from None
        finally:
            candidate.unlink(missing_ok=True)
        if done.returncode:
            _LOG.error("HAProxy refuses its configuration", said=done.stderr[:_MAX_QUOTED])
            raise BalancerProblemError(
                "HAProxy refuses its new configuration and goes on with the old one. The log of "
                "this node's agent has what it says."
            )

    async def _end(self) -> None:
        await self._supervisor.remove(PROCESS)
        if self._root.exists():
            await asyncio.to_thread(shutil.rmtree, self._root)
        self._is_gone = True

    async def _is_answering(self) -> bool:
        try:
            return bool(await self._ask("show info"))
        except (OSError, TimeoutError):
            return False

    async def _ask(self, command: str) -> str:
        """Return HAProxy's answer on its own socket.

        Raises:
            OSError, TimeoutError: it does not answer.

        """
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(
                str(self._socket), limit=_MAX_ANSWER_BYTES
            )
            try:
                writer.write(f"{command}\n".encode())
                answer = await reader.read(-1)
            finally:
                writer.close()
        return answer[:_MAX_ANSWER_BYTES].decode(errors="replace")


def pool_states(answer: str, specification: BalancerSpecification) -> dict[str, str]:
    """Return by replica what HAProxy says in `show stat`: `UP`, `DOWN` or `DRAIN`.

    A replica that drains says 503 at `/health`, which HAProxy calls down; it is `DRAIN` here as
    long as it answers at all.
    """
    draining = {member.id for member in specification.pool if member.is_draining}
    states = {}
    for row in csv.DictReader(io.StringIO(answer.removeprefix("# "))):
        server = row.get("svname") or ""
        if row.get("pxname") != HTTPS_BACKEND or server in {"FRONTEND", "BACKEND"}:
            continue
        state = (row.get("status") or "").partition(" ")[0]
        is_refusing = (row.get("check_status") or "").startswith("L7")
        states[server] = (
            "DRAIN" if server in draining and (state != "DOWN" or is_refusing) else state
        )
    return states


def _most_connections() -> int:
    """Return how many connections HAProxy can have with the files that it may open.

    It takes fewer by itself where it may open fewer; the share of one source has to follow.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    possible = (hard - _OTHER_OPEN_FILES) // _FILES_OF_A_CONNECTION
    return min(MOST_CONNECTIONS, max(_LEAST_CONNECTIONS, possible))


if TYPE_CHECKING:
    _: type[Component] = BalancerComponent
