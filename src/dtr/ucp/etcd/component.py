"""The agent's component that runs etcd on managers."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
import structlog
from pydantic import JsonValue

from dtr.server.datadir import write_atomically
from dtr.ucp.agent.files import KeyFiles, forget_identity, give_keys, make_directory
from dtr.ucp.agent.port import Component, NodeDirectory, ProcessSpecification, Supervisor
from dtr.ucp.agent.users import user_for
from dtr.ucp.etcd.client import EtcdStore
from dtr.ucp.etcd.connection import EtcdConnection, EtcdLogin, TlsFiles
from dtr.ucp.etcd.members import EtcdMembers
from dtr.ucp.keyring import CONTROLLER, ETCD_PEER, ETCD_SERVER, etcd_trust
from dtr.ucp.model import (
    ETCD_CLIENT_PORT,
    ControllerWanted,
    Document,
    EtcdWanted,
    NodeIdentity,
    ProcessState,
    Wanted,
)
from dtr.ucp.repair import Repair, copy_aside, forget_repair, go_on_alone, read_repair

_LOG = structlog.get_logger()

NAME: Final = "etcd"
METRICS_URL: Final = "http://127.0.0.1:2381"
QUOTA_BYTES: Final = 512 * 2**20
KEPT_HISTORY: Final = "10m"
"""Every node's report is a new revision every two seconds: an hour of those of many nodes would
fill the quota, and etcd then takes no write any more. What is to be done then, `ucp.space` does."""

_LOCAL_URL: Final = f"https://127.0.0.1:{ETCD_CLIENT_PORT}"
_HEALTH_SECONDS: Final = 4.0
_STOP_SECONDS: Final = 20.0


class EtcdReport(Document):
    """What the agent tells of etcd: `NodeReport.services['etcd']`."""

    name: str = ""
    """The member's; empty where none is wanted."""
    is_ready: bool = False
    has_data: bool = False
    """Whether anything of a member is left on this node."""
    trust: str = ""
    """Digest of whom the member that is ready trusts; it reads that at its start only."""


class EtcdDataError(Exception):
    """A member's data are not what they must be; one sentence of what and one of what to do."""


class EtcdComponent:
    """Keeps an etcd member running where one is wanted.

    What a member is started with for the first time (`initial_cluster` and so on) counts until it
    has data; after that etcd knows better itself, and a change restarts nothing. A member whose
    data are gone is not started: it would vote without knowing what it has promised before.

    Where none is wanted, it is stopped and its data are deleted. That is safe because `ucp.plan`
    takes a node's etcd away (phase LEAVING, or no record at all) only after the member was removed
    from the cluster: what is deleted belongs to no member any more. A node that was itself removed
    is told nothing at all, and keeps what it has.

    Where an operator asks for it (`ucp.repair`), the member is made the only one. Until that is
    done and the request is deleted, etcd runs with `--force-new-cluster` and listens to nobody but
    this component: no member can have been added that a second start with the flag would drop.
    """

    def __init__(
        self,
        directory: NodeDirectory,
        identity: NodeIdentity,
        supervisor: Supervisor,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._place = directory.of(NAME)
        self._user = user_for(identity, "etcd")
        self._supervisor = supervisor
        self._begun_with: EtcdWanted | None = None
        self._name = ""
        self._clock = clock
        self._trust = ""
        """What the member is to run with, as controllers call it."""
        self._read_at_start = ""
        """The same, as it is in the files."""
        self._pid_before: int | None = None
        """The process that ran when that was changed."""
        self._copying = threading.Lock()
        """A turn may be cut short while its thread goes on to copy."""

    @property
    def name(self) -> str:
        """For the log and the report."""
        return NAME

    async def converge(self, wanted: Wanted) -> None:
        """Run the member, or end it and delete its data.

        Raises:
            KeysMissingError: a member is wanted whose keys have not come yet.
            EtcdDataError: a member is wanted whose data are gone, or what wants none is older than
                the member that is there, or it was made the only one and is not.
            RepairError: it cannot be made the only one.
            UnavailableError: it does not answer while it is made the only one.
            SupervisionError: etcd cannot be started at all.
            OSError: a file cannot be written.

        """
        self._name = wanted.etcd.name if wanted.etcd else ""
        if wanted.etcd is None:
            self._begun_with = None
            await self._supervisor.remove(NAME)
            await asyncio.to_thread(self._clear_away, wanted)
            await asyncio.to_thread(forget_repair, self._directory)
            return
        prepared = await asyncio.to_thread(self._prepared, wanted, wanted.etcd)
        repair = await asyncio.to_thread(read_repair, self._directory)
        if repair is None or await self._is_over(repair, wanted, wanted.etcd, prepared):
            await self._supervisor.ensure(prepared)

    async def report(self) -> JsonValue:
        """Tell how it is, as `EtcdReport`."""
        process = self._supervisor.report(NAME)
        is_ready = process.state is ProcessState.READY
        is_new = process.pid is not None and process.pid != self._pid_before
        report = EtcdReport(
            name=self._name,
            is_ready=is_ready,
            has_data=await asyncio.to_thread(self._has_any),
            trust=self._trust if is_ready and is_new else "",
        )
        return report.model_dump(mode="json")

    async def stop(self) -> None:
        """End the member; its data stay."""
        await self._supervisor.remove(NAME)

    async def _is_over(
        self, repair: Repair, wanted: Wanted, etcd: EtcdWanted, prepared: ProcessSpecification
    ) -> bool:
        """Take the next step of a repair; return whether it is done, or nobody wants it any more.

        Each step may be the last before a crash: begun again, the whole ends the same.
        """
        if wanted.controller is None or not await self._is_begun(repair, etcd):
            _LOG.warning("etcd is not made the only member: that was asked for in other times")
            await asyncio.to_thread(forget_repair, self._directory)
            return True
        await self._supervisor.ensure(self._alone(prepared))
        if self._supervisor.report(NAME).state is not ProcessState.READY:
            return False
        names = await self._go_on_alone(repair, wanted.controller, wanted.node.id, etcd.name)
        await asyncio.to_thread(forget_repair, self._directory)
        _LOG.warning("etcd on this machine is the only member now", lost=names)
        return True

    async def _is_begun(self, repair: Repair, etcd: EtcdWanted) -> bool:
        """Copy the data aside, unless they are; False where it is too late or needless to."""
        if repair.is_begun(self._directory):
            return True
        if repair.is_outdated(self._clock()) or await is_healthy(etcd.client_url, self._tls):
            return False
        _LOG.warning("etcd is ended, copied aside and made the only member", lost=repair.lost)
        await self._supervisor.remove(NAME)
        await asyncio.to_thread(self._copy_aside, repair)
        return True

    def _copy_aside(self, repair: Repair) -> None:
        with self._copying:
            copy_aside(self._data, repair.copy_in(self._directory))

    def _alone(self, prepared: ProcessSpecification) -> ProcessSpecification:
        """Return how the member is run that is to be the only one, for this component alone."""

        async def is_ready() -> bool:
            return await is_healthy(_LOCAL_URL, self._tls)

        listened = f"--listen-client-urls={_LOCAL_URL}"
        words = (
            listened if each.startswith("--listen-client-urls=") else each
            for each in prepared.command
        )
        command = (*words, "--force-new-cluster")
        return replace(prepared, command=command, is_ready=is_ready)

    async def _go_on_alone(
        self, repair: Repair, controller: ControllerWanted, node_id: str, name: str
    ) -> list[str]:
        connection = EtcdConnection([_LOCAL_URL], self._tls, EtcdLogin(controller.etcd_password))
        try:
            members = await EtcdMembers(connection).list()
            if [member.name for member in members] != [name]:
                raise EtcdDataError(
                    f"etcd was made the only member and lists {len(members)}."
                    f" See the log {self._directory.logs / 'etcd.log'}."
                )
            return await go_on_alone(EtcdStore(connection), repair, node_id)
        finally:
            await connection.close()

    @property
    def _tls(self) -> TlsFiles:
        """The agent's own files: those of etcd are etcd's."""
        return client_files(self._directory)

    @property
    def _data(self) -> Path:
        return self._place / "data"

    @property
    def _marker(self) -> Path:
        """There from the moment on when the member has data: epoch and revision of that time."""
        return self._place / "begun"

    def _has_any(self) -> bool:
        return self._place.exists()

    def _clear_away(self, wanted: Wanted) -> None:
        self._trust, self._pid_before = "", None
        if not self._place.exists():
            return
        if self._marker.exists():
            # The node may have been a worker when `wanted.json` was last written, on a full disk.
            begun = tuple(json.loads(self._marker.read_bytes()))
            if begun > (wanted.epoch, wanted.revision):
                raise EtcdDataError(
                    "The desired state of this node is older than its etcd, whose data is kept."
                    " Once a controller answers, the node continues by itself."
                )
        shutil.rmtree(self._place)
        shutil.rmtree(self._directory.engine_keys, ignore_errors=True)

    def _prepared(self, wanted: Wanted, etcd: EtcdWanted) -> ProcessSpecification:
        """Make the files that etcd needs, and return how it is run."""
        make_directory(self._place, user=self._user)
        make_directory(self._data, user=self._user)
        self._give_keys(wanted)
        has_data = (self._data / "member").is_dir()
        if has_data and not self._marker.exists():
            begun = [wanted.epoch, wanted.revision]
            write_atomically(self._marker, json.dumps(begun).encode())
        if not has_data and self._marker.exists():
            raise EtcdDataError(
                f"The data of this node's etcd is gone from {self._data}. Give the node the role"
                f" 'worker' until it is not a manager any more, then its old role."
            )
        if not has_data or self._begun_with is None:
            self._begun_with = etcd
        return self._specification(self._begun_with)

    def _give_keys(self, wanted: Wanted) -> None:
        """Write the member's keys, and those that this node's agent and controller ask it with."""
        place = make_directory(self._place / "tls", user=self._user)
        peer = give_keys(
            self._directory, wanted.keys, ETCD_PEER, KeyFiles.of(place, "peer"), user=self._user
        )
        server = give_keys(
            self._directory, wanted.keys, ETCD_SERVER, KeyFiles.of(place, "server"), user=self._user
        )
        own = KeyFiles.of(make_directory(self._directory.engine_keys), CONTROLLER.name)
        give_keys(self._directory, wanted.keys, CONTROLLER, own)
        forget_identity(self._directory, wanted.keys, place)
        trust = f"{peer.trust} {server.trust}"
        if trust != self._read_at_start:
            self._read_at_start = trust
            self._pid_before = self._supervisor.report(NAME).pid
        self._trust = etcd_trust(wanted.keys.authorities) if wanted.keys else ""

    def _specification(self, etcd: EtcdWanted) -> ProcessSpecification:
        async def is_ready() -> bool:
            return await is_healthy(etcd.client_url, self._tls)

        return ProcessSpecification(
            name=NAME,
            command=etcd_command(etcd, self._place),
            user=self._user,
            directory=self._place,
            # Certificate and key are read at each handshake, whom to trust only once.
            restart_key=self._read_at_start,
            stop_seconds=_STOP_SECONDS,
            is_ready=is_ready,
        )


def etcd_command(etcd: EtcdWanted, place: Path) -> tuple[str, ...]:
    """Return the command that runs a member with its data and certificates below `place`.

    Clients must show a certificate, because there is a `--trusted-ca-file`; yet not
    `--client-cert-auth`. That would be no stricter, only etcd would take the certificate's common
    name for a user, and since its gateway cannot, it answers 400 to every request of a client with
    a common name as soon as authentication is enabled.

    Peers must show a certificate of the peers' authority, which only managers get, and etcd looks
    for the address that they come from in it. `--peer-cert-allowed-hostname` would add nothing:
    that authority signs nothing else.
    """
    peer, server = KeyFiles.of(place / "tls", "peer"), KeyFiles.of(place / "tls", "server")
    listened = dict.fromkeys((etcd.client_url, _LOCAL_URL))
    flags: dict[str, str] = {
        "name": etcd.name,
        "data-dir": str(place / "data"),
        "listen-client-urls": ",".join(listened),
        "advertise-client-urls": etcd.client_url,
        "listen-peer-urls": etcd.peer_url,
        "initial-advertise-peer-urls": etcd.peer_url,
        "listen-metrics-urls": METRICS_URL,
        "initial-cluster": etcd.initial_cluster,
        "initial-cluster-state": "new" if etcd.is_new_cluster else "existing",
        "initial-cluster-token": etcd.cluster_token,
        "cert-file": str(server.certificate),
        "key-file": str(server.key),
        "trusted-ca-file": str(server.ca),
        "peer-cert-file": str(peer.certificate),
        "peer-key-file": str(peer.key),
        "peer-trusted-ca-file": str(peer.ca),
        "peer-client-cert-auth": "true",
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": KEPT_HISTORY,
        "quota-backend-bytes": str(QUOTA_BYTES),
        "heartbeat-interval": "100",
        "election-timeout": "1000",
        "logger": "zap",
        "log-level": "warn",
    }
    return ("etcd", *(f"--{flag}={value}" for flag, value in flags.items()))


def client_files(directory: NodeDirectory) -> TlsFiles:
    """Return what this node's agent and controller ask etcd with; managers only."""
    files = KeyFiles.of(directory.engine_keys, CONTROLLER.name)
    return TlsFiles(files.ca, files.certificate, files.key)


async def is_healthy(client_url: str, tls: TlsFiles) -> bool:
    """Tell whether a member says of itself that it has a leader and a majority.

    One that is full is healthy: to start it anew, or to make it the only member, is no help.
    """
    try:
        timeout = aiohttp.ClientTimeout(total=_HEALTH_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{client_url}/health?exclude=NOSPACE", ssl=tls.context()) as response,
        ):
            return bool(json.loads(await response.read()).get("health") == "true")
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return False


if TYPE_CHECKING:
    _: type[Component] = EtcdComponent
