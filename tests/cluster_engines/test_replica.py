"""A replica by phase, with a supervisor that only remembers."""

import asyncio
import getpass
from pathlib import Path
from typing import Any

import pytest
from tests.cluster_engines.nodes import REPLICA, FakeControllers, TestNode, specification
from tests.cluster_engines.test_programs import installed

from dtr.cluster.engines.replica import ReplicaComponent, ReplicaProblemError
from dtr.cluster.engines.web_certificate import WebCertificateMissingError
from dtr.cluster.model import ReplicaPhase, ReplicaReport
from dtr.model.members import Member
from dtr.testing.supervisor import RecordingSupervisor
from dtr.ucp.authority import Authority

OTHER = "ba9876543210"


class Running:
    """The component on a node, and what it did."""

    def __init__(self, node: TestNode, authority: Authority, packaged: Path) -> None:
        self.node = node
        # Nobody's files: the user for the database need not be on this machine.
        user = "nobody" if getpass.getuser() == "root" else ""
        identity = node.identity.changed(users={"database": user, "registry": user})
        self.supervisor = RecordingSupervisor()
        self.component = ReplicaComponent(
            identity, node.directory, self.supervisor, FakeControllers(authority), packaged
        )

    @property
    def calls(self) -> list[str]:
        """What was done to processes, in order."""
        return self.supervisor.calls

    def root(self, replica_id: str = REPLICA) -> Path:
        """Where everything of a replica is."""
        return self.node.directory.of("replicas") / replica_id

    async def want(self, **changes: Any) -> None:
        """Converge to this specification, until nothing more happens in the background."""
        wanted = self.node.wanted(replica=specification(**changes))
        await self._settle(wanted)

    async def want_none(self) -> None:
        """Converge to no replica at all."""
        await self._settle(self.node.wanted())

    async def _settle(self, wanted: Any) -> None:
        try:
            await self.component.converge(wanted)
        except WebCertificateMissingError:
            assert self.component._parts is not None
            asking = self.component._parts.registry._web._asking
            assert asking is not None
            await asyncio.wait({asking})
            await self.component.converge(wanted)
        while self.component._task is not None:
            await asyncio.wait({self.component._task})
            await self.component.converge(wanted)

    async def report(self) -> ReplicaReport:
        """Return what it tells."""
        return ReplicaReport.model_validate(await self.component.report())


@pytest.fixture
def running(node: TestNode, authority: Authority, tmp_path: Path) -> Running:
    """Give a component on a machine with PostgreSQL."""
    return Running(node, authority, installed(tmp_path / "packaged", "15"))


async def test_it_comes_in_by_phases(running: Running) -> None:
    """First the database, then the registry; the report tells what has been carried out."""
    await running.want(phase=ReplicaPhase.DATABASE)
    assert running.calls == ["start patroni"]
    assert (await running.report()).phase is ReplicaPhase.DATABASE
    await running.want(phase=ReplicaPhase.SERVING)
    await running.want(phase=ReplicaPhase.SERVING)
    assert running.calls == ["start patroni", "start registry"]
    report = await running.report()
    assert report.phase is ReplicaPhase.SERVING
    assert report.members_revision
    assert not report.is_healthy
    await running.component.stop()


async def test_patroni_leaves_postgresql_running_when_the_agent_dies(running: Running) -> None:
    """It is killed without a word then, and started again at once when it ends."""
    await running.want(phase=ReplicaPhase.DATABASE)
    patroni = running.supervisor.processes["patroni"]
    assert patroni.orphan_signal.name == "SIGKILL"
    assert not patroni.is_patient_after_exit
    assert patroni.reload_signal.name == "SIGHUP"
    assert "secret" not in " ".join(patroni.command)
    await running.component.stop()


async def test_a_change_of_members_reaches_patroni_by_signal(running: Running) -> None:
    """Nothing restarts for a join or removal."""
    own = Member(REPLICA, "node1", "127.0.0.1")
    await running.want(members=(own,))
    await running.want(members=(own, Member(OTHER, "node2", "10.0.0.2")))
    assert running.calls == ["start patroni", "start registry", "reload patroni"]
    await running.component.stop()


async def test_who_leaves_ends_in_order_and_leaves_nothing(running: Running) -> None:
    """The registry first, with what is in flight; the data last."""
    await running.want()
    await running.want(phase=ReplicaPhase.DRAINING)
    assert (running.root() / "registry" / "drain").exists()
    await running.want(phase=ReplicaPhase.LEAVING, members=())
    assert running.calls[-2:] == ["remove registry", "remove patroni"]
    assert not running.root().exists()
    report = await running.report()
    assert (report.is_data_deleted, report.phase) == (True, ReplicaPhase.LEAVING)


async def test_who_leaves_after_the_agent_began_anew_leaves_nothing_either(
    running: Running, authority: Authority, tmp_path: Path
) -> None:
    """The next agent knows nothing of what ran."""
    await running.want()
    await running.component.stop()
    again = Running(running.node, authority, tmp_path / "packaged")
    await again.want(phase=ReplicaPhase.LEAVING, members=())
    assert not running.root().exists()
    assert (await again.report()).is_data_deleted


async def test_a_replica_that_nobody_mentions_ends_and_keeps_its_data(running: Running) -> None:
    """Nobody knows why it is not mentioned."""
    await running.want()
    with pytest.raises(ReplicaProblemError, match="is kept in"):
        await running.want_none()
    assert running.component._task is not None
    await asyncio.wait({running.component._task})
    with pytest.raises(ReplicaProblemError, match=REPLICA):
        await running.want_none()
    assert running.supervisor.processes == {}
    assert running.root().exists()
    assert await running.component.report() is None


async def test_another_replica_on_the_node_begins_without_the_data_of_the_one_before(
    running: Running,
) -> None:
    """That is ended first, and its data stays where it is."""
    await running.want()
    other = {"id": OTHER, "members": (Member(OTHER, "node1", "127.0.0.1"),)}
    with pytest.raises(ReplicaProblemError, match="is kept in"):
        await running.want(**other)
    assert running.component._task is not None
    await asyncio.wait({running.component._task})
    with pytest.raises(ReplicaProblemError, match=REPLICA):
        await running.want(**other)
    assert running.calls[2:] == [
        "remove registry",
        "remove patroni",
        "start patroni",
        "start registry",
    ]
    assert str(running.root(OTHER)) in " ".join(running.supervisor.processes["patroni"].command)
    assert running.root().exists()
    assert any(REPLICA in problem for problem in (await running.report()).problems)
    await running.component.stop()


@pytest.mark.parametrize("name", ["..", "../../etc", "", "0123456789AB", "0123456789abc"])
async def test_what_is_no_id_deletes_nothing(running: Running, name: str) -> None:
    """It would be part of the path that is deleted."""
    with pytest.raises(ReplicaProblemError, match="not a replica's id"):
        await running.want(id=name, phase=ReplicaPhase.LEAVING, members=())
    assert running.calls == []
    assert running.node.directory.key.exists()


async def test_a_replica_that_is_no_member_is_left_as_it_is(running: Running) -> None:
    """Neither started nor ended: a controller has to say something else."""
    await running.want()
    with pytest.raises(ReplicaProblemError, match="not a member"):
        await running.want(members=(Member(OTHER, "node2", "10.0.0.2"),))
    assert set(running.supervisor.processes) == {"patroni", "registry"}
    await running.component.stop()


async def test_wrong_settings_do_not_keep_the_database_from_changing(running: Running) -> None:
    """Members are told to Patroni, whatever the registry thinks of its settings."""
    own = Member(REPLICA, "node1", "127.0.0.1")
    await running.want(members=(own,))
    wrong = {"limits": {"manifest_bytes": 1}}
    with pytest.raises(Exception, match="manifest_bytes"):
        await running.want(members=(own, Member(OTHER, "n", "10.0.0.2")), settings=wrong)
    assert running.calls[-1] == "reload patroni"
    await running.component.stop()
