"""A replica's registry: `dtr serve`, with everything that it reads, kept as wanted."""

import asyncio
import json
import sys
import time
from functools import partial
from hashlib import sha256
from typing import Final

import structlog
from pydantic import JsonValue

from dtr import __version__
from dtr.cluster.engines.probes import ask, own_server_context
from dtr.cluster.engines.registry_settings import DRAIN_SECONDS, RegistryPlace, render
from dtr.cluster.engines.web_certificate import Pair, WebCertificate, read_pair
from dtr.cluster.model import PROXY_PORT, ReplicaPhase, ReplicaSpecification, StorageReport
from dtr.model.errors import RegistryError, UnavailableError
from dtr.model.members import Members
from dtr.server.clock import written_correction
from dtr.server.settings_sources import SettingsError, load_settings
from dtr.ucp.agent.files import (
    forget_identity,
    give_keys,
    make_directory,
    trusted_in,
    write_for,
)
from dtr.ucp.agent.port import (
    Controllers,
    NodeDirectory,
    ProcessSpecification,
    SupervisionError,
    Supervisor,
)
from dtr.ucp.agent.users import user_for
from dtr.ucp.api import ApiError
from dtr.ucp.keyring import REGISTRY, Realm
from dtr.ucp.model import NodeIdentity, ProcessState, Wanted

PROCESS: Final = "registry"

_LOG = structlog.get_logger()
_LOWEST_FREE_PORT: Final = 1024
_STATUS_SECONDS: Final = 5.0
_CALL_SECONDS: Final = 4.0
_ANSWER_SECONDS: Final = 2.0
_PROMPT_SECONDS: Final = 1.0
"""An answer about the time that took longer says too little."""
_HEALTH_SECONDS: Final = 1.5
_MAX_STATUS_BYTES: Final = 4 << 20
_START_SECONDS: Final = 300.0
"""The first one makes the schema; another may have to wait for a primary."""


class SettingsRefusedError(Exception):
    """The registry would not take its settings; it goes on with those that it has."""


class Registry:
    """`dtr serve` of one replica, below one directory of its own user.

    Members and status are files that it reads again by itself, a certificate is taken at SIGHUP;
    anything else that changes restarts it, after what is in flight.
    """

    def __init__(
        self,
        identity: NodeIdentity,
        directory: NodeDirectory,
        supervisor: Supervisor,
        controllers: Controllers,
        place: RegistryPlace,
    ) -> None:
        self._identity = identity
        self._directory = directory
        self._supervisor = supervisor
        self._controllers = controllers
        self._place = place
        self._web = WebCertificate(identity, controllers)
        self._refreshing: asyncio.Task[None] | None = None
        self.is_read_only = False
        self._refused: tuple[str, str] = ("", "")
        self._web_problem = ""
        self._revision = 0
        self._port = 0
        self.members_revision = ""
        """Digest of the members that were last written."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What an operator should know."""
        return (self._web_problem,) if self._web_problem else ()

    @property
    def settings_revision(self) -> int:
        """Of the settings that the running registry has; 0 until one is ready."""
        return self._revision if self._is_up() else 0

    @property
    def proxy_port(self) -> int:
        """Where the running registry takes balancers' connections; 0 until one is ready."""
        return PROXY_PORT if self._is_up() else 0

    async def converge(self, wanted: Wanted, specification: ReplicaSpecification) -> None:
        """Have it run so.

        Raises:
            KeysMissingError, WebCertificateMissingError: it waits for what only controllers give.
            SettingsRefusedError: its settings are wrong; what can be done without them is done.
            SupervisionError, OSError: it cannot run; the message says why.

        """
        user, place = user_for(self._identity, "registry"), self._place
        own = next(each for each in specification.members if each.id == specification.id)
        make_directory(place.root, user=user)
        members = Members(specification.id, specification.members)
        self.members_revision = write_for(place.members, members.render(), user=user)
        self._drain(is_wanted=specification.phase is not ReplicaPhase.SERVING, user=user)
        balancers = "".join(f"{each}\n" for each in specification.balancers)
        write_for(place.balancers, balancers, user=user)
        self._refresh_status(user)
        keys = self._give_keys(wanted, user)
        pair = self._write_web_certificate(specification, user)
        password = f"{specification.database_password}\n"
        secret = write_for(place.database_password, password, user=user)
        write_for(place.administrator_hash, f"{specification.administrator_hash}\n", user=user)
        text = render(specification, own, place, is_own_authority=pair.is_own_authority)
        if problem := self._refuses(text, user):
            raise SettingsRefusedError(problem)
        written = write_for(place.configuration, text, user=user)
        await self._supervisor.ensure(
            self._process(
                specification,
                user,
                restart_key=f"{__version__} {written} {secret}",
                reload_key=f"{keys} {sha256(pair.certificate.encode()).hexdigest()}",
            )
        )
        forget_identity(self._directory, wanted.keys, place.pki)
        self._revision, self._port = specification.settings_revision, specification.https_port

    async def end(self) -> None:
        """End it after what is in flight, and return then: after ten minutes at most."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
            self._refreshing = None
        await self._web.stop()
        await self._supervisor.remove(PROCESS)

    async def health(self) -> str:
        """Return what `/health` names as wrong; empty where it says 200."""
        if not self._port:
            return "the registry does not run yet"
        try:
            status, body = await self._ask("/health", self._port, _HEALTH_SECONDS)
        except UnavailableError as error:
            return str(error)
        is_healthy = status == 200  # noqa: PLR2004
        self.is_read_only = is_healthy and _said(body).get("ReadOnly") is True
        return "" if is_healthy else _error_of(body) or "its health is not good"

    def storage(self) -> StorageReport | None:
        """Return what the built-in storage last wrote of itself; None where there is nothing."""
        try:
            text = self._place.storage_status.read_bytes()
            return StorageReport.model_validate_json(text)
        except (OSError, ValueError):
            return None

    def _is_up(self) -> bool:
        """Tell whether a registry runs with settings that were rendered here."""
        return bool(self._port) and self._supervisor.report(PROCESS).state is ProcessState.READY

    def _process(
        self, specification: ReplicaSpecification, user: str, *, restart_key: str, reload_key: str
    ) -> ProcessSpecification:
        ports = (specification.https_port, specification.http_port)
        configuration = str(self._place.configuration)
        return ProcessSpecification(
            name=PROCESS,
            command=(sys.executable, "-I", "-m", "dtr", "serve", "--config", configuration),
            user=user,
            directory=self._place.root,
            may_bind_low_ports=any(each < _LOWEST_FREE_PORT for each in ports),
            restart_key=restart_key,
            reload_key=reload_key,
            stop_seconds=DRAIN_SECONDS + 30,
            is_ready=partial(self._is_ready, specification.https_port),
            ready_seconds=_START_SECONDS,
        )

    async def _is_ready(self, port: int) -> bool:
        """Tell whether it answers at all: one that drains or cannot write says 503, and runs."""
        try:
            await self._ask("/_ping", port, _ANSWER_SECONDS)
        except UnavailableError:
            return False
        return True

    async def _ask(self, path: str, port: int, seconds: float) -> tuple[int, bytes]:
        context = own_server_context(self._place.pki / "ca.crt", self._place.web_certificate)
        return await ask(f"https://127.0.0.1:{port}{path}", context, seconds=seconds)

    def _give_keys(self, wanted: Wanted, user: str) -> str:
        """Write whom to trust and the key among replicas; return what differs when it does.

        The registry reads all of it again by itself.
        """
        place, directory = self._place, self._directory
        make_directory(place.pki, user=user)
        write_for(place.pki / "ca.crt", directory.ca.read_bytes(), user=user)
        databases = trusted_in(directory, wanted.keys, Realm.DATABASE)
        write_for(place.database_ca, databases, user=user)
        return str(give_keys(directory, wanted.keys, REGISTRY, place.peer_keys, user=user))

    def _write_web_certificate(self, specification: ReplicaSpecification, user: str) -> Pair:
        place = self._place
        node = read_pair(self._directory.certificate, self._directory.key)
        if node is None:
            raise SupervisionError("The node's certificate cannot be read.")
        kept = read_pair(place.web_certificate, place.web_key)
        pair = self._web.choose(specification, node, kept)
        # The key first: a crash in between leaves a pair that does not match, which is made anew.
        write_for(place.web_key, pair.key, user=user)
        write_for(place.web_certificate, pair.certificate, user=user)
        self._web_problem = pair.problem
        return pair

    def _drain(self, *, is_wanted: bool, user: str) -> None:
        if is_wanted:
            write_for(self._place.drain, b"", user=user)
        else:
            self._place.drain.unlink(missing_ok=True)

    def _refuses(self, text: str, user: str) -> str:
        """Return why settings cannot be used; they are looked at once."""
        digest = sha256(text.encode()).hexdigest()
        place = self._place
        if digest != self._refused[0]:
            write_for(place.candidate, text, user=user)
            try:
                load_settings(place.candidate, {}, environment={})
                problem = ""
            except SettingsError as error:
                problem = "The registry's settings are wrong, and it goes on with those before: "
                problem += "; ".join(f"{each.key} {each.message}" for each in error.problems)
                problem += ". Correct them with dtr reconfigure."
            place.candidate.unlink(missing_ok=True)
            self._refused = (digest, problem)
        return self._refused[1]

    def _refresh_status(self, user: str) -> None:
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._keep_status(user))

    async def _keep_status(self, user: str) -> None:
        while True:
            try:
                async with asyncio.timeout(_CALL_SECONDS):
                    status = await self._controllers.call("GET", "/dtr/status")
                content = json.dumps(status).encode()
                if len(content) <= _MAX_STATUS_BYTES:
                    write_for(self._place.status, content, user=user)
                async with asyncio.timeout(_CALL_SECONDS):
                    await self._compare_clocks(user)
            except (RegistryError, ApiError, TimeoutError, OSError) as error:
                _LOG.debug("the cluster's status stays as it is", error=str(error))
            await asyncio.sleep(_STATUS_SECONDS)

    async def _compare_clocks(self, user: str) -> None:
        begun = time.monotonic()
        answer = await self._controllers.call("GET", "/agent/time")
        own, seconds = time.time(), time.monotonic() - begun
        now = answer.get("now") if isinstance(answer, dict) else None
        if isinstance(now, int | float) and seconds <= _PROMPT_SECONDS:
            write_for(self._place.clock, written_correction(own, now), user=user)


def _said(body: bytes) -> dict[str, JsonValue]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _error_of(body: bytes) -> str:
    error = str(_said(body).get("Error", ""))
    # What comes after the component is a driver's or a library's: for the log and for /health.
    component, _, detail = error.partition(": ")
    return f"its {component} is not well: see /health there" if detail else error
