"""Whether a node runs a controller."""

from pathlib import Path

from tests.ucp.plane import HASH

from dtr.testing.supervisor import RecordingSupervisor
from dtr.ucp.agent.files import KeyFiles, give_keys, make_directory
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.bootstrap import FirstNode, begin, read_bootstrap
from dtr.ucp.controller.component import ControllerComponent
from dtr.ucp.etcd.component import client_files
from dtr.ucp.keyring import CONTROLLER
from dtr.ucp.model import Administrator, Wanted


def wanted_in(place: Path) -> tuple[NodeDirectory, Wanted]:
    """Give the directory of a first machine, and what it runs."""
    directory = NodeDirectory(place / "node")
    administrator = Administrator(name="admin", password_hash=HASH, changed_at=0)
    begin(directory, FirstNode("first", "127.0.0.1", 8443), administrator, 1_800_000_000)
    bootstrap = read_bootstrap(directory.bootstrap)
    assert bootstrap is not None
    files = KeyFiles.of(make_directory(directory.engine_keys), CONTROLLER.name)
    give_keys(directory, bootstrap.keys, CONTROLLER, files)
    return directory, bootstrap.wanted()


async def test_a_manager_runs_one_and_a_worker_none(tmp_path: Path) -> None:
    """However often it is said."""
    directory, wanted = wanted_in(tmp_path)
    supervisor = RecordingSupervisor()
    component = ControllerComponent(directory, supervisor)
    for _ in range(3):
        await component.converge(wanted)
    for _ in range(2):
        await component.converge(wanted.changed(controller=None))
    await component.converge(wanted)
    await component.stop()
    assert supervisor.calls == [
        "start controller",
        "remove controller",
        "start controller",
        "remove controller",
    ]


async def test_it_waits_for_what_etcd_is_asked_with(tmp_path: Path) -> None:
    """The component of etcd writes that, perhaps a moment later."""
    directory, wanted = wanted_in(tmp_path)
    client_files(directory).key.unlink()
    supervisor = RecordingSupervisor()
    await ControllerComponent(directory, supervisor).converge(wanted)
    assert supervisor.calls == []


async def test_it_is_restarted_for_another_password_and_for_nothing_less(tmp_path: Path) -> None:
    """Other members of etcd it reads from the file; secrets are not in its command."""
    directory, wanted = wanted_in(tmp_path)
    assert wanted.controller is not None
    supervisor = RecordingSupervisor()
    component = ControllerComponent(directory, supervisor)
    await component.converge(wanted)
    await component.converge(wanted.changed(revision=7, etcd_urls=("https://10.0.0.2:2379",)))
    assert supervisor.calls == ["start controller"]
    new = wanted.controller.changed(etcd_password="another")
    await component.converge(wanted.changed(controller=new.model_dump()))
    assert supervisor.calls == ["start controller", "restart controller"]
    specification = supervisor.processes["controller"]
    told = " ".join((*specification.command, *specification.environment.values()))
    assert wanted.controller.etcd_password not in told
    assert "another" not in told
    assert str(directory.root) in told


async def test_one_that_does_not_answer_is_not_ready(tmp_path: Path) -> None:
    """And asking is no failure."""
    directory, wanted = wanted_in(tmp_path)
    assert wanted.controller is not None
    supervisor = RecordingSupervisor()
    free = wanted.controller.changed(port=1)
    await ControllerComponent(directory, supervisor).converge(
        wanted.changed(controller=free.model_dump())
    )
    is_ready = supervisor.processes["controller"].is_ready
    assert is_ready is not None
    assert not await is_ready()
    assert await ControllerComponent(directory, supervisor).report() is None
