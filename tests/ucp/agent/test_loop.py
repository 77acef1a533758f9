"""The agent against a controller that says what the test wants, over real mutual TLS."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs
from tests.ucp.agent.conftest import QUICK, until
from tests.ucp.agent.fakes import FakeController, WatchedComponent, make_node, wanted

from dtr.ucp.agent.controllers import HttpControllers
from dtr.ucp.agent.convergence import Limits
from dtr.ucp.agent.last_known import LastReport, last_report_file, recall
from dtr.ucp.agent.loop import Agent, AgentSettings
from dtr.ucp.agent.port import NodeDirectory, ProcessSpecification, SupervisionError
from dtr.ucp.agent.run import read_identity
from dtr.ucp.agent.supervisor import ProcessSupervisor
from dtr.ucp.authority import Authority
from dtr.ucp.model import Probe, Wanted

SETTINGS = AgentSettings(
    turn_seconds=0.05,
    report_seconds=0.05,
    remember_seconds=0.05,
    retry_seconds=0.1,
    removed_seconds=0.1,
    renewal_seconds=0.1,
    renewal_retry_seconds=0.1,
    stop_seconds=9,
    limits=Limits(turn_seconds=0.1, patience_seconds=0.2, longest_seconds=60, report_seconds=1),
)


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Give an authority that all trust."""
    return Authority.create("c1", datetime.now(UTC))


@pytest.fixture
async def controller(tmp_path: Path, authority: Authority) -> AsyncIterator[FakeController]:
    """Give a controller that listens."""
    controller = FakeController(tmp_path / "controller", authority)
    await controller.start()
    yield controller
    await controller.stop()


@pytest.fixture
def directory(tmp_path: Path, authority: Authority, controller: FakeController) -> NodeDirectory:
    """Give the directory of a node that knows the controller, after one that is dead."""
    dead = FakeController(tmp_path, authority).address
    make_node(tmp_path / "node", authority, (dead, controller.address))
    return NodeDirectory(tmp_path / "node")


@asynccontextmanager
async def running(
    directory: NodeDirectory, *components: WatchedComponent, settings: AgentSettings = SETTINGS
) -> AsyncIterator[ProcessSupervisor]:
    """Run an agent for as long as the block lasts."""
    identity = read_identity(directory)
    supervisor = ProcessSupervisor(directory, QUICK)
    controllers = HttpControllers(directory, identity.controllers)
    agent = Agent(directory, identity, supervisor, controllers, components, settings)
    stop = asyncio.Event()
    task = asyncio.create_task(agent.run(stop))
    try:
        yield supervisor
    finally:
        stop.set()
        await task


async def test_what_is_wanted_is_written_down_carried_out_and_reported(
    directory: NodeDirectory, controller: FakeController
) -> None:
    """By all components in their order, at each change."""
    order: list[str] = []
    etcd, replica = WatchedComponent("etcd", order), WatchedComponent("replica", order)
    replica.answer = {"state": "running"}
    controller.say(wanted(7, (controller.address,)))
    async with running(directory, etcd, replica) as supervisor:
        await until(lambda: bool(replica.given), "the first turn")
        assert order[:2] == ["converge etcd", "converge replica"]
        assert directory.wanted.stat().st_mode & 0o777 == 0o600
        assert Wanted.model_validate_json(directory.wanted.read_bytes()) == controller.wanted
        await supervisor.ensure(ProcessSpecification("child", ("sleep", "60")))
        await until(lambda: bool(controller.reports and controller.reports[-1].processes), "report")
        report = controller.reports[-1]
        assert (report.revision, report.services) == (7, {"replica": {"state": "running"}})
        assert report.processes[0].name == "child"
        assert report.disk_total_bytes >= report.disk_free_bytes > 0
        assert report.memory_total_bytes > 2**20
        assert report.certificate_expires_at > time.time() + 80 * 86400
        controller.say(wanted(9, (controller.address,)))
        await until(lambda: etcd.given[-1].revision == 9, "the change")
        await until(lambda: controller.reports[-1].revision == 9, "the report")
    assert order[-2:] == ["stop replica", "stop etcd"]
    assert supervisor.reports() == ()


async def test_what_was_reported_last_is_kept_for_the_operator(
    directory: NodeDirectory, controller: FakeController
) -> None:
    """With when a controller heard it, and why none does any more; also across a restart."""
    controller.say(wanted(7, (controller.address,)))

    def kept() -> LastReport:
        recalled = recall(last_report_file(directory))
        assert recalled is not None
        return LastReport.model_validate(recalled.document)

    async with running(directory, WatchedComponent("etcd")):
        await until(last_report_file(directory).exists, "the first that is kept")
        await until(lambda: not kept().silence, "one that was heard")
        heard_at = kept().heard_at
        assert heard_at > time.time() - 60
        await controller.stop()
        await until(lambda: bool(kept().silence), "one that nobody heard")
        assert "No controller answered" in kept().silence
        assert kept().heard_at >= heard_at
    heard_at = kept().heard_at
    async with running(directory, WatchedComponent("etcd")):
        at = kept().report.at
        await until(lambda: kept().report.at > at, "the first of another agent")
        assert kept().heard_at == heard_at


async def test_without_controllers_the_file_is_what_counts(
    directory: NodeDirectory, controller: FakeController
) -> None:
    """Also from the start on; and once a controller is there again, it is heard."""
    controller.say(wanted(7, (controller.address,), services={"replica": {"a": 1}}))
    first = WatchedComponent("replica")
    async with running(directory, first):
        await until(lambda: bool(first.given), "the first turn")
        await controller.stop()
        turns = len(first.given)
        await until(lambda: len(first.given) > turns + 3, "turns without a controller")
    second = WatchedComponent("replica")
    async with running(directory, second):
        await until(lambda: bool(second.given), "a turn by the file")
        assert second.given[0].services == {"replica": {"a": 1}}
        assert not (directory.root / "removed").exists()
        controller.say(wanted(8, (controller.address,)))
        await controller.start()
        await until(lambda: second.given[-1].revision == 8, "the controller's word")


async def test_an_older_store_is_not_followed_unless_it_is_of_a_new_epoch(
    directory: NodeDirectory, controller: FakeController
) -> None:
    """Managers that were left behind and return are not to take the cluster over."""
    component = WatchedComponent("replica")
    controller.say(wanted(100, (controller.address,)))
    async with running(directory, component):
        await until(lambda: bool(component.given), "the first turn")
        controller.say(wanted(60, (controller.address,)))
        await until(
            lambda: any(
                "older desired state (revision 60" in one for one in controller.reports[-1].problems
            ),
            "the refusal in the report",
        )
        controller.say(wanted(200, (controller.address,), cluster_id="other"))
        await until(
            lambda: any("another cluster" in one for one in controller.reports[-1].problems),
            "the other refusal",
        )
        assert {given.revision for given in component.given} == {100}
        controller.say(wanted(60, (controller.address,), epoch=1))
        await until(lambda: component.given[-1].revision == 60, "the restored store's word")
        await until(lambda: not controller.reports[-1].problems, "no problem any more")
        controller.say(wanted(300, (controller.address,)))
        await until(lambda: bool(controller.reports[-1].problems), "the old store's refusal")
        assert component.given[-1].revision == 60


async def test_after_a_silence_everything_is_asked_for_anew(
    directory: NodeDirectory, controller: FakeController
) -> None:
    """A store that was restored meanwhile knows nothing of the revision that we had."""
    component = WatchedComponent("replica")
    controller.say(wanted(100, (controller.address,)))
    async with running(directory, component):
        await until(lambda: "100" in controller.asked, "a question for what is new")
        with capture_logs() as log:
            await controller.stop()
            silence = "no controller answers; all goes on as it is"
            await until(lambda: silence in [line["event"] for line in log], "the silence")
        controller.asked.clear()
        await controller.start()
        await until(lambda: bool(controller.asked), "a question")
        assert controller.asked[0] == "0"


async def test_components_that_raise_or_hang_stop_no_other_and_are_problems(
    directory: NodeDirectory, controller: FakeController
) -> None:
    """And are forgotten once they are well."""
    raising, hanging = WatchedComponent("etcd"), WatchedComponent("controller")
    fine = WatchedComponent("replica")
    raising.error = SupervisionError("the port 2379 is taken")
    raising.answer = "raise"
    hanging.hangs = True
    controller.say(wanted(7, (controller.address,)))
    async with running(directory, raising, hanging, fine):
        await until(lambda: len(fine.given) > 2, "turns of the component behind them")
        await until(
            lambda: any("without an end" in one for one in controller.reports[-1].problems),
            "the problem of the one that hangs",
        )
        problems = controller.reports[-1].problems
        assert "etcd: the port 2379 is taken" in problems
        assert "etcd: cannot tell how it is: cannot look" in problems
        assert len(hanging.given) == 1
        assert controller.reports[-1].revision == 0
        raising.error, raising.answer = None, None
        await until(
            lambda: not any("etcd" in one for one in controller.reports[-1].problems), "health"
        )
        hanging.hangs = False
    assert fine.stops == hanging.stops == raising.stops == 1


@pytest.mark.parametrize(("status", "code"), [(401, "NODE_UNKNOWN"), (403, "NODE_REMOVED")])
async def test_a_removed_node_stops_everything_and_stays_so_until_it_is_known_again(
    directory: NodeDirectory, controller: FakeController, status: int, code: str
) -> None:
    """However often the agent starts; a machine that is no node must not serve nor vote."""
    component = WatchedComponent("replica")
    controller.say(wanted(7, (controller.address,)))
    async with running(directory, component) as supervisor:
        await until(lambda: bool(component.given), "the first turn")
        await supervisor.ensure(ProcessSpecification("child", ("sleep", "60")))
        controller.refusal = (status, code)
        controller.say(wanted(8))
        await until(lambda: component.stops == 1, "the components' end")
        await until(lambda: supervisor.reports() == (), "the processes' end")
        assert (directory.root / "removed").exists()
        assert directory.wanted.exists()
    again = WatchedComponent("replica")
    async with running(directory, again):
        controller.asked.clear()
        await until(lambda: len(controller.asked) > 3, "questions")
        assert not again.given
        controller.refusal = None
        controller.say(wanted(9, (controller.address,)))
        await until(lambda: bool(again.given), "work for a node that is known again")
        assert not (directory.root / "removed").exists()


async def test_a_machine_that_is_installed_anew_is_not_the_node_that_was_removed(
    directory: NodeDirectory, controller: FakeController
) -> None:
    """No controller could say so where the agent itself has to start the first one."""
    await controller.stop()
    directory.wanted.write_bytes(wanted(0).encoded())
    (directory.root / "removed").write_text(f"{'b' * 26}\nA controller said…\n")
    component = WatchedComponent("controller")
    async with running(directory, component):
        await until(lambda: bool(component.given), "the first turn")


async def test_other_refusals_stop_nothing(
    directory: NodeDirectory, controller: FakeController
) -> None:
    """A controller that has lost its mind, or a certificate that was replaced."""
    component = WatchedComponent("replica")
    controller.say(wanted(7, (controller.address,)))
    async with running(directory, component):
        await until(lambda: bool(component.given), "the first turn")
        for refusal in ((403, "FORBIDDEN"), (401, "CERTIFICATE_REPLACED"), (404, "NODE_UNKNOWN")):
            controller.refusal = refusal
            controller.say(wanted(8))
            controller.asked.clear()
            turns = len(component.given)
            await until(lambda: len(controller.asked) > 2, "questions")
            await until(lambda: len(component.given) > turns + 2, "turns")  # noqa: B023
        assert component.stops == 0
        assert not (directory.root / "removed").exists()


async def test_a_machine_of_another_authority_is_not_heard(
    tmp_path: Path, directory: NodeDirectory, controller: FakeController
) -> None:
    """Whoever takes a controller's address cannot say that we were removed."""
    await controller.stop()
    impostor = FakeController(tmp_path / "impostor", Authority.create("c1", datetime.now(UTC)))
    impostor.port = controller.port
    impostor.refusal = (401, "NODE_UNKNOWN")
    directory.wanted.write_bytes(wanted(7, (controller.address,)).encoded())
    component = WatchedComponent("replica")
    await impostor.start()
    try:
        async with running(directory, component):
            await until(lambda: len(component.given) > 5, "turns")
            assert not impostor.asked
            assert component.stops == 0
    finally:
        await impostor.stop()


async def test_a_probe_is_carried_out_and_reported(
    directory: NodeDirectory, controller: FakeController
) -> None:
    """With the answer for each port and address."""
    probe = Probe(id="p1", connect=(controller.address,))
    controller.say(wanted(7, (controller.address,), probe=probe))
    async with running(directory, WatchedComponent("replica")):
        await until(lambda: bool(controller.reports and controller.reports[-1].probe), "a report")
        found = controller.reports[-1].probe
        assert found is not None
        assert (found.id, found.connected) == ("p1", {controller.address: ""})


async def test_a_damaged_file_is_as_good_as_none(
    directory: NodeDirectory, controller: FakeController
) -> None:
    """The controllers say it again."""
    directory.wanted.write_text("{")
    component = WatchedComponent("replica")
    controller.say(wanted(7, (controller.address,)))
    async with running(directory, component):
        await until(lambda: kept_revision(directory) == 7, "what is said is kept")


def kept_revision(directory: NodeDirectory) -> int | None:
    """Return the revision of what the agent has kept; None while it is damaged."""
    try:
        return Wanted.model_validate_json(directory.wanted.read_bytes()).revision
    except ValidationError:
        return None
