"""`dtr install`, `join`, `remove`, …: typed, against a real API and a simulated cluster."""

import io
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pexpect
import pytest
from tests.cli.command import Ended, QuickCommandLine, clean_environment
from tests.cluster_plan.simulation import Simulation, replica_id
from tests.support.processes import wait_until
from tests.support.server import DTR
from tests.ucp.plane import ADMINISTRATOR, PASSWORD, ControlPlane

from dtr.cluster.api import kinds, routes
from dtr.ucp import keys
from dtr.ucp.model import Manager, ManagerPhase, Operation, OperationState
from dtr.ucp.store import Delete, Put

_TICK_SECONDS = 0.005


class Place:
    """A control plane, machines that are simulated, and a command line beside them."""

    def __init__(self, plane: ControlPlane, place: Path) -> None:
        self.plane = plane
        self.simulation = Simulation(4, now=plane.now, shared_store=plane.store)
        self.environment = {
            "UCP_URL": plane.address,
            "UCP_USERNAME": ADMINISTRATOR,
            "UCP_PASSWORD": PASSWORD,
            "UCP_CA": plane.ca,
            "UCP_DATA_DIR": str(place / "no-node"),
        }
        self._line = QuickCommandLine(place, place)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._live)
        self._waits = False

    def __enter__(self) -> Self:
        self.plane.run(self.simulation.begin())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _live(self) -> None:
        while not self._ends.wait(_TICK_SECONDS):
            if not self._waits:
                self.tick()

    def tick(self) -> None:
        """Let a second pass."""
        self.simulation.now = self.plane.now
        self.plane.run(self.simulation.tick())
        self.plane.now = self.simulation.now

    def stand_still(self) -> None:
        """Let no time pass any more."""
        self._waits = True

    def go_on(self) -> None:
        """Let time pass again."""
        self._waits = False

    def run(self, *words: str, **environment: str) -> Ended:
        """Run a command to its end."""
        return self._line.run(
            *words, environment={**self.environment, **environment}, names_data=False
        )

    def fails(self, *words: str, **environment: str) -> str:
        """Run a command that must fail; give what it says after all phases."""
        done = self.run(*words, **environment)
        assert done.status == 1, done
        assert "Traceback" not in done.err
        return done.err.rpartition("Error: ")[2]

    def good(self, *words: str) -> str:
        """Run a command that must succeed; give what it printed."""
        done = self.run(*words)
        assert done.status == 0, done
        return done.out

    def grow(self, count: int) -> None:
        """Make a cluster of so many replicas."""
        for number in range(1, count + 1):
            words = ["install" if number == 1 else "join", "--ucp-node", f"node{number}"]
            self.good(*words, "--replica-id", replica_id(number))

    def start(self, kind: str, **arguments: Any) -> str:
        """Ask for an operation behind the command line's back."""
        self.simulation.operations += 100
        return self.plane.run(self.simulation.start(kind, **arguments))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Give a control plane with four machines and no registry."""
    with (
        ControlPlane(tmp_path / "plane", extra_routes=routes(), kinds=kinds()) as plane,
        Place(plane, tmp_path) as made,
    ):
        yield made


def test_install_and_joins_tell_what_an_operator_needs_next(place: Place) -> None:
    """The replica's id with the option that takes it, numbers, and a warning for an even one."""
    out = place.good("install", "--ucp-node", "node1", "--replica-id", replica_id(1))
    assert f"--existing-replica-id {replica_id(1)}" in out
    second = place.run("join", "--ucp-node", "node2")
    assert "Replicas: 2. Failures tolerated: 0." in second.out
    assert "Warning: 2 replicas tolerate no more failures than 1" in second.err
    assert "copying the database: done" in second.err
    third = place.run("join", "--ucp-node", "node3")
    assert "Replicas: 3. Failures tolerated: 1." in third.out
    assert "Warning" not in third.err


def test_a_refused_operation_is_one_sentence_and_exit_status_1(place: Place) -> None:
    """And what to do about it."""
    place.grow(1)
    assert "has the replica" in place.fails("join", "--ucp-node", "node1")
    assert "dtr destroy" in place.fails("remove", "--replica-ids", replica_id(1))
    assert "12 lower-case" in place.fails("join", "--ucp-node", "node2", "--replica-id", "X")


def test_without_a_terminal_nothing_is_asked(place: Place) -> None:
    """The option that is missing is named."""
    place.grow(2)
    assert "--ucp-node is needed" in place.fails("join")
    assert "--replica-id is needed" in place.fails("remove")
    assert "--ucp-username is needed" in place.fails("status", UCP_USERNAME="")
    assert "pass --yes" in place.fails("destroy", "--replica-id", replica_id(1))


def test_json_is_all_that_is_printed(place: Place) -> None:
    """For scripts: the operation with its result."""
    done = place.run("install", "--ucp-node", "node1", "--json")
    assert done.json["state"] == "succeeded"
    assert done.json["result"]["replicas"] == 1
    assert done.err == ""


def test_a_failure_is_json_too(place: Place) -> None:
    """With the sentence on standard error, and exit status 1."""
    done = place.run("join", "--ucp-node", "node1", "--json")
    assert done.status == 1
    assert done.json["state"] == "failed"
    assert "Start with dtr install" in done.err


def test_a_dry_run_changes_nothing(place: Place) -> None:
    """It prints the phases, or why it would be refused."""
    out = place.good("install", "--ucp-node", "node1", "--dry-run")
    assert "testing the ports" in out
    assert place.simulation.records() == []
    assert "would be refused" in place.fails("join", "--ucp-node", "node1", "--dry-run")
    plan = place.run("install", "--ucp-node", "node1", "--dry-run", "--json").json
    assert plan["problem"] == ""


def test_the_same_command_again_attaches_to_what_runs(place: Place) -> None:
    """There is one operation, and both end with its result."""
    place.grow(1)
    place.stand_still()
    operation_id = place.start("join", node="node2")
    place.go_on()
    done = place.run("join", "--ucp-node", "node2")
    assert done.status == 0
    # It may end between the two.
    assert re.search(
        rf"(is running already|has just been done) \(operation {operation_id}\)", done.err
    )
    assert len(place.simulation.records()) == 2


def test_the_same_command_again_finds_what_is_just_done(place: Place) -> None:
    """Whoever lost the connection at the very end sees how it ended."""
    place.grow(2)
    place.good("remove", "--replica-ids", replica_id(2))
    again = place.run("remove", "--replica-ids", replica_id(2))
    assert again.status == 0
    assert "has just been done" in again.err
    place.good("join", "--ucp-node", "node2")
    assert "There is no replica" in place.fails("remove", "--replica-ids", "a" * 12)


def test_another_command_is_refused_while_one_runs(place: Place) -> None:
    """One change at a time; the message says which runs."""
    place.grow(1)
    place.stand_still()
    place.start("join", node="node2")
    try:
        assert "is running" in place.fails("join", "--ucp-node", "node3")
    finally:
        place.go_on()


def test_an_operation_is_cancelled(place: Place) -> None:
    """It is undone, and the command that waited for it fails."""
    place.grow(1)
    assert "no operation is running" in place.fails("cancel").lower()
    place.stand_still()
    place.start("join", node="node2")
    assert "is being cancelled" in place.good("cancel")
    place.go_on()
    wait_until(lambda: "/ucp/operation" not in place.simulation.entries(), "it has ended")
    assert len(place.simulation.records()) == 1


def test_status_shows_replicas_and_issues(place: Place) -> None:
    """As a table, and as JSON in the original's shape."""
    assert "not installed" in place.good("status")
    place.grow(3)
    # The plane's own manager is no machine of the simulation, and reports nothing.
    assert "The manager first does not report." in place.good("status")
    place.plane.run(_manage(place))
    shown = place.good("status")
    assert "Pushes and pulls work." in shown
    assert "Nothing is wrong." in shown
    place.good("status", "--check")
    assert replica_id(1) in shown
    assert "primary" in shown
    place.simulation.kill(3)
    deadline = place.plane.now + 100
    while "FAILED" not in (shown := place.good("status")):
        assert place.plane.now < deadline
    assert f"dtr remove --replica-ids {replica_id(3)}" in shown
    assert place.run("status", "--check").status == 1
    document = json.loads(place.good("status", "--json"))
    assert document["replica_health"][replica_id(1)] == "OK"
    assert document["rethink_system_tables"]["current_issues"]


async def _manage(place: Place) -> None:
    """Have the machines of the three replicas be the managers."""
    managers = [
        Manager(
            node_id=place.simulation.machine(number).node.id, peer_url="", phase=ManagerPhase.VOTER
        )
        for number in (1, 2, 3)
    ]
    puts = [Put(keys.manager(each.node_id), each.encoded()) for each in managers]
    await place.plane.store.commit([*puts, Delete(keys.manager(place.plane.first.id))])


def test_a_wrong_id_of_a_replica_is_refused_with_one_reason(place: Place) -> None:
    """And not with how many would be left without it."""
    place.grow(2)
    said = place.fails("remove", "--existing-replica-id", replica_id(1), "--replica-id", "abc")
    assert "12 lower-case hexadecimal digits" in said
    assert "entries" not in said


def test_reconfigure_takes_settings(place: Place) -> None:
    """Values are TOML; wrong ones are refused with their names."""
    place.grow(1)
    place.good("reconfigure", "--setting", "limits.page_entries=50", "--log-level", "DEBUG")
    view = place.plane.run(place.simulation.view())
    assert view.cluster is not None
    assert view.cluster.settings == {"limits": {"page_entries": 50}, "log": {"level": "debug"}}
    assert "limits.page_entries" in place.fails(
        "reconfigure", "--setting", "limits.page_entries=none"
    )
    assert "SECTION.KEY=VALUE" in place.fails("reconfigure", "--setting", "debug")
    assert "nothing to change" in place.fails("reconfigure").lower()
    assert "dtr storage copy" in place.fails("reconfigure", "--storage", "s3://b")


def test_a_private_key_on_the_command_line_is_refused(place: Place) -> None:
    """Other users of the machine could read it."""
    pem = "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----"
    assert "private key on the command line is refused" in place.fails(
        "reconfigure", "--dtr-cert", "c.pem", "--dtr-key", pem
    )
    assert "--dtr-key is not given" in place.fails("reconfigure", "--dtr-cert", "c.pem")


def test_the_generated_certificate_is_asked_for_alone(place: Place, tmp_path: Path) -> None:
    """Not together with one of the user's; by itself it is something to change."""
    place.grow(1)
    for name in ("chain.pem", "key.pem"):
        (tmp_path / name).write_text("-----BEGIN X-----\n")
    both = ["--dtr-cert", str(tmp_path / "chain.pem"), "--dtr-key", str(tmp_path / "key.pem")]
    assert "exclude each other" in place.fails("reconfigure", "--generated-cert", *both)
    assert "new settings" in place.good("reconfigure", "--generated-cert")


def test_nfs_urls_are_explained(place: Place) -> None:
    """What the original mounted is for the operator to mount."""
    assert "--storage-is-shared" in place.fails(
        "install", "--ucp-node", "node1", "--nfs-storage-url", "nfs://h/x"
    )


def test_load_balancers_and_configurations(place: Place) -> None:
    """The pool is that of the cluster, in any program's words."""
    assert "no replica" in place.fails("load-balancer", "config")
    place.grow(2)
    place.good("load-balancer", "install", "--ucp-node", "node4")
    assert "10.0.0.2:443" in place.good("load-balancer", "config", "--format", "haproxy")
    assert "10.0.0.1:443" in place.good("load-balancer", "config", "--format", "nginx")
    assert "node4" in place.good("status")
    place.good("load-balancer", "remove", "--ucp-node", "node4")


def test_destroy_deletes_the_last_replica(place: Place) -> None:
    """After --yes; with others it names remove."""
    place.grow(2)
    assert "dtr remove" in place.fails("destroy", "--replica-id", replica_id(2), "--yes")
    place.good("remove", "--replica-ids", replica_id(2))
    assert "deleted" in place.good("destroy", "--replica-id", replica_id(1), "--yes")
    assert place.simulation.records() == []


def test_emergency_repair_shows_survivors_before_it_goes_on(place: Place) -> None:
    """Two of three are lost."""
    place.grow(3)
    place.simulation.gives_up_durability = True
    place.simulation.kill(1)
    place.simulation.kill(2)
    until = place.plane.now + 60
    while place.plane.now < until:
        place.good("status")
    out = place.good("emergency-repair", "--existing-replica-id", replica_id(3), "--yes")
    assert "last transaction" in out
    assert f"Replica {replica_id(3)} is the primary" in out


def _type(place: Place, *words: str) -> tuple["pexpect.spawn[str]", io.StringIO]:
    environment = clean_environment(place.environment)
    environment.pop("UCP_PASSWORD")
    environment.pop("UCP_USERNAME")
    typed = pexpect.spawn(
        str(DTR[0]), [*map(str, DTR[1:]), *words], env=environment, encoding="utf-8", timeout=60
    )
    typed.logfile_read = io.StringIO()
    return typed, typed.logfile_read


def test_remove_asks_what_the_original_asked(place: Place) -> None:
    """Existing replica id with a default, replica id, username, and the password hidden."""
    place.grow(3)
    typed, shown = _type(place, "remove")
    typed.expect_exact("ucp-username (The UCP administrator username): ")
    typed.sendline(ADMINISTRATOR)
    typed.expect_exact("ucp-password: ")
    typed.sendline(PASSWORD)
    typed.expect_exact("replica-id (ID of the replica to remove): ")
    typed.sendline(replica_id(3))
    default = replica_id(1)
    typed.expect_exact(
        f"existing-replica-id (ID of an existing replica in a cluster) [{default}]: "
    )
    typed.sendline("")
    typed.expect(pexpect.EOF)
    typed.close()
    assert typed.exitstatus == 0, shown.getvalue()
    assert f"Removed: {replica_id(3)}." in shown.getvalue()
    assert PASSWORD not in shown.getvalue()


def test_what_is_typed_can_be_typed_anew(place: Place) -> None:
    """No answer conflicts with another one, and none is refused after all are given."""
    place.grow(3)
    typed, shown = _type(place, "remove", "--ucp-username", ADMINISTRATOR)
    typed.expect_exact("ucp-password: ")
    typed.sendline(PASSWORD)
    everybody = ",".join(replica_id(number) for number in (1, 2, 3))
    for answer, told in (
        ("nonsense", "There is no replica nonsense."),
        (everybody, "No replica would be left"),
        (replica_id(1), ""),
    ):
        typed.expect_exact("replica-id (ID of the replica to remove): ")
        typed.sendline(answer)
        typed.expect_exact(told)
    # The one that leaves was the default before; now it is not even in the list.
    typed.expect_exact(f"[{replica_id(2)}]: ")
    typed.sendline(replica_id(1))
    typed.expect_exact(f"{replica_id(1)} cannot be the existing replica.")
    typed.expect_exact(f"[{replica_id(2)}]: ")
    typed.sendline("")
    typed.expect(pexpect.EOF)
    typed.close()
    assert typed.exitstatus == 0, shown.getvalue()
    assert f"Removed: {replica_id(1)}." in shown.getvalue()


def test_the_existing_replica_that_was_named_does_not_leave(place: Place) -> None:
    """That is said while another one can still be typed."""
    place.grow(3)
    named = ("--ucp-username", ADMINISTRATOR, "--existing-replica-id", replica_id(2))
    typed, shown = _type(place, "remove", *named)
    typed.expect_exact("ucp-password: ")
    typed.sendline(PASSWORD)
    for answer in (replica_id(2), replica_id(3)):
        typed.expect_exact("replica-id (ID of the replica to remove): ")
        typed.sendline(answer)
    typed.expect(pexpect.EOF)
    typed.close()
    assert typed.exitstatus == 0, shown.getvalue()
    assert f"{replica_id(2)} is the existing replica and cannot be removed." in shown.getvalue()
    assert f"Removed: {replica_id(3)}." in shown.getvalue()


def test_a_node_is_chosen_from_a_numbered_list(place: Place) -> None:
    """Those that have a replica already are not offered."""
    place.grow(1)
    typed, shown = _type(place, "join", "--ucp-username", ADMINISTRATOR)
    typed.expect_exact("ucp-password: ")
    typed.sendline(PASSWORD)
    typed.expect(r"(\d+)\) node3")
    assert isinstance(typed.match, re.Match)
    number = typed.match.group(1)
    typed.expect_exact("ucp-node (The hostname of the node, or its number in the list)")
    typed.sendline(number)
    typed.expect_exact("existing-replica-id (")
    typed.sendline("")
    typed.expect(pexpect.EOF)
    typed.close()
    assert typed.exitstatus == 0, shown.getvalue()
    assert "1) node1" not in shown.getvalue()
    assert "has joined on node3" in shown.getvalue()


def test_ctrl_c_leaves_the_operation_running(place: Place) -> None:
    """It says how to see the rest, and the same command shows it."""
    place.grow(1)
    place.stand_still()
    typed, shown = _type(
        place, "join", "--ucp-node", "node2", "--existing-replica-id", replica_id(1)
    )
    typed.expect_exact("ucp-username")
    typed.sendline(ADMINISTRATOR)
    typed.expect_exact("ucp-password: ")
    typed.sendline(PASSWORD)
    wait_until(lambda: "/ucp/operation" in place.simulation.entries(), "the join has begun")
    place.tick()
    typed.expect("checking the cluster|testing the network|making credentials")
    typed.sendintr()
    typed.expect_exact("Run the same command again")
    typed.expect(pexpect.EOF)
    typed.close()
    assert typed.exitstatus == 130, shown.getvalue()
    place.go_on()
    assert place.run("join", "--ucp-node", "node2").status == 0
    states = {each.state for each in place.plane.run(_operations(place))}
    assert states == {OperationState.SUCCEEDED}
    assert os.environ.get("UCP_PASSWORD") is None


async def _operations(place: Place) -> list[Any]:
    entries, _ = await place.plane.store.list("/ucp/operations/")

    return [entry.document(Operation) for entry in entries]
