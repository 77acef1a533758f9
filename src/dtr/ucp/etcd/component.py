"""The agent's component that runs etcd on managers."""

import asyncio
import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
from pydantic import JsonValue

from dtr.server.datadir import write_atomically
from dtr.ucp.agent.files import copy_identity, make_directory
from dtr.ucp.agent.port import Component, NodeDirectory, ProcessSpecification, Supervisor
from dtr.ucp.agent.users import user_for
from dtr.ucp.etcd.connection import TlsFiles
from dtr.ucp.model import ETCD_CLIENT_PORT, Document, EtcdWanted, NodeIdentity, ProcessState, Wanted

NAME: Final = "etcd"
METRICS_URL: Final = "http://127.0.0.1:2381"
QUOTA_BYTES: Final = 512 * 2**20
KEPT_HISTORY: Final = "10m"
"""Every node's report is a new revision every two seconds: an hour of those of many nodes would
fill the quota, and etcd then takes no write any more."""

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
    """

    def __init__(
        self, directory: NodeDirectory, identity: NodeIdentity, supervisor: Supervisor
    ) -> None:
        self._directory = directory
        self._place = directory.of(NAME)
        self._user = user_for(identity, "etcd")
        self._supervisor = supervisor
        self._begun_with: EtcdWanted | None = None
        self._name = ""

    @property
    def name(self) -> str:
        """For the log and the report."""
        return NAME

    async def converge(self, wanted: Wanted) -> None:
        """Run the member, or end it and delete its data.

        Raises:
            EtcdDataError: a member is wanted whose data are gone, or what wants none is older than
                the member that is there.
            SupervisionError: etcd cannot be started at all.
            OSError: a file cannot be written.

        """
        self._name = wanted.etcd.name if wanted.etcd else ""
        if wanted.etcd is None:
            self._begun_with = None
            await self._supervisor.remove(NAME)
            await asyncio.to_thread(self._clear_away, wanted)
            return
        prepared = await asyncio.to_thread(self._prepared, wanted, wanted.etcd)
        await self._supervisor.ensure(prepared)

    async def report(self) -> JsonValue:
        """Tell how it is, as `EtcdReport`."""
        is_ready = self._supervisor.report(NAME).state is ProcessState.READY
        report = EtcdReport(
            name=self._name, is_ready=is_ready, has_data=await asyncio.to_thread(self._has_any)
        )
        return report.model_dump(mode="json")

    async def stop(self) -> None:
        """End the member; its data stay."""
        await self._supervisor.remove(NAME)

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
        if not self._place.exists():
            return
        if self._marker.exists():
            # The node may have been a worker when `wanted.json` was last written, on a full disk.
            begun = tuple(json.loads(self._marker.read_bytes()))
            if begun > (wanted.epoch, wanted.revision):
                raise EtcdDataError(
                    "What this node is known to run is older than its etcd, whose data are kept."
                    " Once a controller answers, it goes on by itself."
                )
        shutil.rmtree(self._place)

    def _prepared(self, wanted: Wanted, etcd: EtcdWanted) -> ProcessSpecification:
        """Make the files that etcd needs, and return how it is run."""
        make_directory(self._place, user=self._user)
        make_directory(self._data, user=self._user)
        copy_identity(self._directory, self._place / "tls", user=self._user)
        has_data = (self._data / "member").is_dir()
        if has_data and not self._marker.exists():
            begun = [wanted.epoch, wanted.revision]
            write_atomically(self._marker, json.dumps(begun).encode())
        if not has_data and self._marker.exists():
            raise EtcdDataError(
                f"The data of this node's etcd are gone from {self._data}. Give the node the role"
                f" 'worker' until it is no manager any more, then the role that it had."
            )
        if not has_data or self._begun_with is None:
            self._begun_with = etcd
        return self._specification(self._begun_with)

    def _specification(self, etcd: EtcdWanted) -> ProcessSpecification:
        directory = self._directory
        # The node's own files: those of etcd can be read by its user only.
        tls = TlsFiles(directory.ca, directory.certificate, directory.key)

        async def is_ready() -> bool:
            return await is_healthy(etcd.client_url, tls)

        return ProcessSpecification(
            name=NAME,
            command=etcd_command(etcd, self._place),
            user=self._user,
            directory=self._place,
            # Certificate and key are read at each handshake, the authority only once.
            restart_key=hashlib.sha256(directory.ca.read_bytes()).hexdigest(),
            stop_seconds=_STOP_SECONDS,
            is_ready=is_ready,
        )


def etcd_command(etcd: EtcdWanted, place: Path) -> tuple[str, ...]:
    """Return the command that runs a member with its data and certificates below `place`.

    Clients must show a certificate, because there is a `--trusted-ca-file`; yet not
    `--client-cert-auth`. That would be no stricter, only etcd would take the certificate's common
    name for a user, and since its gateway cannot, it answers 400 to every request of a client with
    a common name as soon as authentication is enabled.
    """
    tls = place / "tls"
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
        "cert-file": str(tls / "node.crt"),
        "key-file": str(tls / "node.key"),
        "trusted-ca-file": str(tls / "ca.crt"),
        "peer-cert-file": str(tls / "node.crt"),
        "peer-key-file": str(tls / "node.key"),
        "peer-trusted-ca-file": str(tls / "ca.crt"),
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


async def is_healthy(client_url: str, tls: TlsFiles) -> bool:
    """Tell whether a member says of itself that it has a leader and a majority."""
    try:
        timeout = aiohttp.ClientTimeout(total=_HEALTH_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{client_url}/health", ssl=tls.context()) as response,
        ):
            return bool(json.loads(await response.read()).get("health") == "true")
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return False


if TYPE_CHECKING:
    _: type[Component] = EtcdComponent
