"""The machines of cluster tests are what they claim to be."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.machines import CommandError, Direction, Machine, Machines
from tests.support.namespaces import Network, remove_stale_namespaces, require_namespaces
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

_PORT = 4000
_ECHO = "import http.server as s; s.test(s.SimpleHTTPRequestHandler, port=4000)"


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Give two machines, with disks of their own where that can be."""
    with Machines(["left", "right"], tmp_path_factory.mktemp("machines")) as machines:
        yield machines


@pytest.fixture
def left(machines: Machines) -> Iterator[Machine]:
    """Give a machine that is on and connected, whatever a test before did."""
    yield machines["left"]
    if not machines["left"].is_on:
        machines["left"].start()
    machines["left"].thaw()
    machines["left"].heal()


def _answers(machine: Machine, address: str) -> bool:
    code = f"import socket; socket.create_connection(('{address}', {_PORT}), 1).send(b'x')"
    return machine.run(["python3", "-c", code], check=False).returncode == 0


def _serve(machine: Machine, tmp_path: Path) -> "subprocess.Popen[bytes]":
    server = machine.begin(["python3", "-c", _ECHO], log=tmp_path / "server.log")
    wait_until(lambda: _answers(machine, "127.0.0.1"), "the server listens")
    return server


def test_a_machine_has_its_own_name_address_and_processes(left: Machine) -> None:
    """What runs there takes it for a whole machine."""
    assert left.run(["hostname"]).stdout.strip() == "left"
    assert left.run(["getent", "hosts", "right"]).stdout.split() == ["10.77.0.12", "right"]
    assert "10.77.0.11" in left.run(["ip", "address"]).stdout
    assert left.run(["sh", "-c", "ls -d /proc/[0-9]* | wc -l"]).stdout.strip() < "9"
    assert socket.gethostname() != "left"


def test_the_commands_of_this_checkout_are_there(left: Machine) -> None:
    """The real commands run, on data of the machine's own."""
    assert left.run(["dtr", "--version"]).stdout.startswith("dtr ")
    left.run(["touch", "/var/lib/ucp/here"])
    assert (left.disk.path / "here").exists()


def test_a_command_that_fails_says_all_that_it_printed(left: Machine) -> None:
    """Whoever reads the failed test sees why."""
    with pytest.raises(CommandError, match="not today"):
        left.run(["sh", "-c", "echo not today >&2; exit 3"])


def test_a_terminal_is_a_terminal(left: Machine) -> None:
    """Commands ask only there."""
    terminal = left.type(["sh", "-c", "test -t 0 && read answer && echo got $answer"])
    terminal.sendline("this")
    terminal.expect("got this")
    terminal.wait()


def test_a_machine_without_power_has_no_processes(
    machines: Machines, left: Machine, tmp_path: Path
) -> None:
    """All is killed, orphans included; what was on the disk is still there afterwards."""
    server = _serve(left, tmp_path)
    left.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo kept >/var/lib/ucp/file"])
    (orphan,) = left.processes("sleep 1000")
    assert _answers(machines["right"], left.address)
    left.power_off()
    assert server.wait(10) != 0
    assert orphan.state in {"", "Z"}
    assert not _answers(machines["right"], left.address)
    left.start()
    assert left.run(["cat", "/var/lib/ucp/file"]).stdout == "kept\n"


def test_a_frozen_machine_answers_when_it_thaws(
    machines: Machines, left: Machine, tmp_path: Path
) -> None:
    """Its kernel still accepts connections; its processes do nothing."""
    server = _serve(left, tmp_path)
    ask = f"import urllib.request as r; r.urlopen('http://left:{_PORT}/', timeout=2)"
    left.freeze()
    assert machines["right"].run(["python3", "-c", ask], check=False).returncode != 0
    left.thaw()
    machines["right"].run(["python3", "-c", ask])
    left.kill("http.server")
    server.wait(10)


@pytest.mark.parametrize("direction", Direction)
def test_a_machine_that_is_cut_off_is_not_reached(
    machines: Machines, left: Machine, tmp_path: Path, direction: Direction
) -> None:
    """No connection comes about when either way is blocked; then all is well again."""
    server = _serve(left, tmp_path)
    left.cut_off(direction)
    assert not _answers(machines["right"], left.address)
    assert _answers(left, "127.0.0.1")
    left.heal()
    wait_until(lambda: _answers(machines["right"], left.address), "the cable is back")
    left.kill("http.server")
    server.wait(10)


def test_a_thread_has_the_network_of_a_machine(machines: Machines) -> None:
    """Load comes from a machine's address, while the test is at home on the host."""
    thread = machines.thread_on("left")

    async def own_address() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((machines["right"].address, 9))
            address: str = probe.getsockname()[0]
            return address

    assert thread.call(own_address()) == machines["left"].address
    thread.close()


def test_killing_what_does_not_run_is_an_error(left: Machine) -> None:
    """A scenario that kills nothing would prove nothing."""
    with pytest.raises(LookupError, match="no etcd runs on left"):
        left.kill("etcd")


def test_a_disk_can_be_full_and_can_stall(tmp_path: Path) -> None:
    """Writes fail with the right error, or wait until the disk goes on."""
    with Machines(["alone"], tmp_path, disk_bytes=64 << 20) as machines:
        alone = machines["alone"]
        alone.disk.fill()
        full = alone.run(["cp", "/etc/passwd", "/var/lib/ucp/file"], check=False)
        assert "No space left" in full.stderr
        alone.disk.make_room()
        alone.disk.stall()
        writer = alone.begin(["touch", "/var/lib/ucp/late"], log=tmp_path / "log")
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.5)
        alone.disk.go_on()
        assert writer.wait(10) == 0


def test_what_a_killed_test_left_is_removed() -> None:
    """Namespaces carry the id of the process that made them."""
    require_namespaces()
    network = Network()
    network._name = network._bridge = "dtr-4194305-0"  # no process has this id: the limit is below
    network.open()
    assert Path("/run/netns/dtr-4194305-0").exists()
    remove_stale_namespaces()
    assert not Path("/run/netns/dtr-4194305-0").exists()
