"""`dtr status` and `ucp status` at night: no controller answers, and somebody must know why."""

import json
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from tests.cli.command import Ended
from tests.support.processes import free_port
from tests.ucp.agent.fakes import NODE_ID, make_node, wanted
from typer.testing import CliRunner

from dtr.cli.application import application as dtr_application
from dtr.cli.ucp.application import application as ucp_application
from dtr.cli.ucp.this_node import ThisNode
from dtr.ucp.agent.last_known import LastReport, last_report_file, last_status_file
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.authority import Authority
from dtr.ucp.client import NO_MAJORITY
from dtr.ucp.model import ControllerWanted, NodeReport, ProcessReport, ProcessState

STATUS = {
    "rethink_system_tables": {
        "current_issues": [
            {"critical": True, "type": "replica", "description": "The roof leaks.", "info": {}}
        ]
    },
    "is_installed": True,
    "is_writable": False,
    "version": "0.1.0",
    "storage": "replicated",
    "external_url": "",
    "replicas": [],
    "balancers": [],
    "managers": [{"node": "other", "phase": "voter", "address": "127.0.0.1"}],
    "failures_tolerated": {"replicas": 0, "managers": 0},
    "operation": None,
}
BOTH = pytest.mark.parametrize(
    "application", [dtr_application, ucp_application], ids=["dtr", "ucp"]
)


@dataclass
class Night:
    """A manager whose controllers are silent, and what its agent has left on the disk."""

    directory: NodeDirectory
    controller: str
    registry_port: int

    def status(self, application: typer.Typer, *options: str) -> Ended:
        """Type the command; nobody has set a name or a password."""
        kept = {name: None for name in os.environ if name.startswith(("UCP_", "DTR_"))}
        environment = {**kept, "COLUMNS": "200", "UCP_DATA_DIR": str(self.directory.root)}
        done = CliRunner().invoke(application, ["status", *options], env=environment)
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return Ended(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """Give a manager that was heard two hours ago."""
    directory, now = NodeDirectory(tmp_path / "node"), time.time()
    controller, port = f"127.0.0.1:{free_port()}", free_port()
    make_node(directory.root, Authority.create("c1", datetime.now(UTC)), (controller,))
    services = {"replica": {"https_port": port}}
    own = ControllerWanted(ca_key="", etcd_password="")
    told = wanted(7, (controller,), services=services, controller=own)
    directory.wanted.write_bytes(told.encoded())
    process = ProcessReport(name="etcd", state=ProcessState.BACKING_OFF, since=now, message="Ouch.")
    report = NodeReport(
        node_id=NODE_ID,
        at=now,
        version="0.1.0",
        revision=7,
        processes=(process,),
        problems=("The fan is loud.",),
    )
    last = LastReport(report=report, heard_at=now - 7200, silence="No controller answered.")
    last_report_file(directory).write_text(last.model_dump_json())
    last_status_file(directory).write_text(json.dumps(STATUS))
    return Night(directory, controller, port)


@BOTH
def test_a_node_shows_what_it_knows_by_itself(night: Night, application: typer.Typer) -> None:
    """Without asking for a password that nobody would check; and says what to do."""
    ended = night.status(application)
    assert ended.status == 1
    assert ended.err == "Error: No controller answers. What to do is shown above.\n"
    for said in (
        f"{night.controller}  nothing listens there",
        "This node: n1 (127.0.0.1); the agent does not run",
        "Last contact with a controller: 2 h ago.",
        f"The registry here: it does not answer at port {night.registry_port}",
        "etcd     backing-off",
        "Ouch.",
        "!  The fan is loud.",
        "The cluster, as a controller reported it",
        "!! The roof leaks.",
        "- The agent of this machine does not run",
        "- There is one manager, this machine. Start it",
    ):
        assert said in ended.out


@BOTH
def test_scripts_get_the_same(night: Night, application: typer.Typer) -> None:
    """As one document; exit status and standard error say that it is not the usual one."""
    ended = night.status(application, "--json")
    assert ended.status == 1
    assert ended.json["is_control_plane_answering"] is False
    assert ended.json["controllers"].keys() == {night.controller}
    assert ended.json["report"]["problems"] == ["The fan is loud."]
    assert ended.json["status"] == STATUS
    assert len(ended.json["advice"]) == 3


@BOTH
def test_less_is_shown_where_less_is_known(night: Night, application: typer.Typer) -> None:
    """A node that has just joined, or whose files are damaged."""
    night.directory.wanted.unlink()
    last_report_file(night.directory).write_text("{}")
    last_status_file(night.directory).unlink()
    ended = night.status(application)
    assert ended.status == 1
    assert "Last contact with a controller: never." in ended.out
    assert f"There is one manager, {night.controller}." in ended.out


@BOTH
def test_another_user_is_told_who_may_look(
    night: Night, application: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the agent knows is for its own user; the controllers' faults are for everybody."""
    real = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == night.directory.wanted:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    message = night.status(application).message
    assert "is for the agent's user only. Run this as root to see it." in message
    assert f"- {night.controller}: nothing listens there" in message


@BOTH
def test_elsewhere_there_is_only_what_was_tried(night: Night, application: typer.Typer) -> None:
    """A machine that is no node, or one that was named another address."""
    message = night.status(application, "--ucp-url", night.controller).message
    assert message.startswith("No controller answers. Check the address (--ucp-url)")


def node(controllers: dict[str, str], *, is_manager: bool = True) -> ThisNode:
    """Make a node that knows little."""
    return ThisNode(
        name="n1",
        address="10.0.0.1",
        controllers=controllers,
        is_manager=is_manager,
        is_agent_running=True,
        report=None,
        report_age_seconds=1,
        heard_seconds_ago=1,
        registry_health=None,
        status={"managers": [{"node": "node2", "address": "10.0.0.2"}]},
        status_age_seconds=1,
    )


SILENT = "it does not answer"


def test_the_advice_names_the_machines_to_start() -> None:
    """And says when the last resort is one."""
    controllers = {"10.0.0.1:8443": NO_MAJORITY, "10.0.0.2:8443": SILENT, "10.0.0.3:8443": SILENT}
    advice = " ".join(node(controllers).advice())
    assert "Of 3 managers 2 are needed. Start 1 of these" in advice
    assert "node2 (10.0.0.2:8443), 10.0.0.3:8443" in advice
    assert "ucp emergency-repair, as root on this machine. Do not run it while" in advice
    worker = " ".join(node(controllers, is_manager=False).advice())
    assert "as root on a manager that is left" in worker
    assert "this machine itself may be cut off" not in worker


def test_a_machine_that_reaches_nobody_looks_at_its_own_network() -> None:
    """Before anybody repairs a control plane that is well."""
    silent = {f"10.0.0.{number}:8443": SILENT for number in (1, 2, 3)}
    assert "this machine itself may be cut off" in " ".join(node(silent, is_manager=False).advice())


def test_managers_that_all_run_have_a_network_between_them() -> None:
    """No machine is to be started, and nothing to be repaired."""
    controllers = {f"10.0.0.{number}:8443": NO_MAJORITY for number in (1, 2, 3)}
    advice = " ".join(node(controllers).advice())
    assert "ports 2379 and 2380" in advice
    assert "emergency-repair" not in advice
