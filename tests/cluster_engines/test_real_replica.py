"""A whole replica as the agent runs it: etcd, Patroni, PostgreSQL, `dtr serve`; in and out."""

import asyncio
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.cluster_engines.nodes import FakeControllers, TestNode, specification
from tests.cluster_engines.test_real_database import eventually, keyring_of
from tests.support.etcd import RunningEtcd
from tests.support.installation import installed_python
from tests.support.postgresql import requires_postgresql
from tests.support.processes import free_port, requires_root

from dtr.accounts.passwords import hash_password
from dtr.cluster.engines.replica import ReplicaComponent
from dtr.cluster.engines.web_certificate import WebCertificateMissingError
from dtr.cluster.model import ReplicaPhase, ReplicaReport
from dtr.model.members import Member
from dtr.ucp.agent.supervisor import ProcessSupervisor
from dtr.ucp.etcd import EtcdLogin
from dtr.ucp.etcd.users import EtcdUsers
from dtr.ucp.keyring import KINDS, issue
from dtr.ucp.model import Wanted

pytestmark = [pytest.mark.etcd, pytest.mark.postgresql, pytest.mark.server]

REPLICA = "00000000000a"
ADDRESS = "127.0.0.1"
HOST = "localhost"


class Replica:
    """The component with a real supervisor, and what is wanted of it."""

    def __init__(self, etcd: RunningEtcd, directory: Path) -> None:
        node = TestNode.create(etcd.authority.authority, directory / "node", ADDRESS)
        self.node = node
        self.etcd = etcd
        self.keys = issue(keyring_of(etcd), node.node, KINDS, time.time())
        identity = node.identity.changed(users={"registry": "nobody"})
        controllers = FakeControllers(etcd.authority.authority, status={"replicas": []})
        supervisor = ProcessSupervisor(node.directory)
        self.component = ReplicaComponent(identity, node.directory, supervisor, controllers)
        blobs = directory / "blobs"
        blobs.mkdir()
        blobs.chmod(0o777)
        self.https_port = free_port()
        self._values: dict[str, Any] = {
            "id": REPLICA,
            "members": (
                Member(REPLICA, "node1", ADDRESS, database_port=free_port(), peer_port=free_port()),
            ),
            "is_bootstrap": True,
            "etcd_username": f"patroni-{REPLICA}",
            "storage": f"file://{blobs}",
            "https_port": self.https_port,
            "http_port": free_port(),
            "external_url": f"https://images.example.org:{self.https_port}",
            "administrator_hash": hash_password("administrator-secret"),
            "settings": {"server": {"workers": 1}},
            "settings_revision": 3,
        }

    def wanted(self, phase: ReplicaPhase) -> Wanted:
        """Give what a controller says in this phase."""
        values = {**self._values, "phase": phase}
        if phase is ReplicaPhase.LEAVING:
            values["members"] = ()
        return self.node.wanted(self.etcd.endpoints, self.keys, replica=specification(**values))

    async def reach(self, phase: ReplicaPhase, condition: str) -> ReplicaReport:
        """Converge in this phase until a word of the report holds."""
        found: list[ReplicaReport] = []

        async def is_so() -> bool:
            with suppress(WebCertificateMissingError):  # until the controllers have answered
                await self.component.converge(self.wanted(phase))
            report = ReplicaReport.model_validate(await self.component.report())
            found[:] = [report]
            return report.phase is phase and bool(getattr(report, condition))

        await eventually(is_so, f"{condition} in phase {phase}")
        return found[0]

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """Ask the registry as a client that trusts the authority."""
        context = ssl.create_default_context(cafile=str(self.node.directory.ca))
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            url = f"https://{HOST}:{self.https_port}{path}"
            return await client.get(url, **options)


async def test_a_replica_comes_serves_drains_and_goes(
    short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its phases, as an agent carries them out; nothing is left in the end."""
    requires_root("other users")
    requires_postgresql()
    monkeypatch.setattr(sys, "executable", str(installed_python()))
    with RunningEtcd() as etcd:
        connection = etcd.connection(EtcdLogin("root-secret"))
        replica = Replica(etcd, short_directory)
        try:
            users = EtcdUsers(connection)
            await users.enable_authentication("root-secret")
            await users.add_patroni_user(REPLICA, "etcd-secret")
            await serves(replica)
            await drains(replica)
            await leaves(replica)
        finally:
            await replica.component.stop()
            await connection.close()


async def serves(replica: Replica) -> None:
    """See the database, then the registry, healthy, with the administrator that was given."""
    report = await replica.reach(ReplicaPhase.SERVING, "is_healthy")
    assert report.database.role == "primary"
    assert report.problems == ()
    report = await replica.reach(ReplicaPhase.SERVING, "settings_revision")
    assert report.settings_revision == 3
    answer = await replica.get("/v2/", auth=("admin", "administrator-secret"))
    assert answer.status_code == 200
    assert (await replica.get("/ca")).text == replica.node.directory.ca.read_text()


async def drains(replica: Replica) -> None:
    """See health say no while everything else is answered."""
    report = await replica.reach(ReplicaPhase.DRAINING, "health_error")
    assert not report.is_healthy
    assert report.settings_revision == 3
    answer = await replica.get("/v2/", auth=("admin", "administrator-secret"))
    assert answer.status_code == 200
    await replica.reach(ReplicaPhase.SERVING, "is_healthy")


async def leaves(replica: Replica) -> None:
    """See all of it end, and its directory go."""
    await replica.reach(ReplicaPhase.LEAVING, "is_data_deleted")
    assert not list(replica.node.directory.of("replicas").iterdir())
    with pytest.raises(httpx.ConnectError):
        await replica.get("/_ping")
    assert await asyncio.to_thread(_left_of, replica.node.directory.root) == []


def _left_of(root: Path) -> list[str]:
    """Return the command lines of processes that name this directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(root) in line:
            found.append(line)
    return found
