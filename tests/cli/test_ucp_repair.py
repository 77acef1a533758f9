"""`ucp emergency-repair`: what it refuses, what it says, and what it asks the agent for."""

import fcntl
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pexpect
import pytest
from tests.cli.ucp_command import Ucp
from tests.support.processes import wait_until
from tests.support.server import UCP

from dtr.cli.ucp import repair as module
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.model import ControllerWanted, EtcdWanted, Node, Wanted
from dtr.ucp.repair import forget_repair, read_repair, repair_of, write_repair

OWN = "127.61.0.1"
OTHERS = ("127.61.0.2", "127.61.0.3")
PORT = 8443


class Survivor:
    """The directory of a manager, and an agent's lock on it."""

    def __init__(self, root: Path, managers: tuple[str, ...] = (OWN, *OTHERS)) -> None:
        self.directory = NodeDirectory(root)
        self.member = root / "etcd" / "data" / "member"
        self.member.mkdir(parents=True)
        self.wanted = Wanted(
            revision=7,
            cluster_id="c",
            node=Node(id="n1", name="host1", host_address=OWN, fingerprint="00", joined_at=1),
            controllers=tuple(f"{each}:{PORT}" for each in managers),
            etcd_urls=tuple(f"https://{each}:2379" for each in managers),
            etcd=EtcdWanted(
                name="n1",
                peer_url=f"https://{OWN}:2380",
                client_url=f"https://{OWN}:2379",
                initial_cluster="",
                is_new_cluster=False,
                cluster_token="c",
            ),
            controller=ControllerWanted(ca_key="", etcd_password="a secret"),
            services={"replica": {"id": "0123456789ab", "members": [{}]}},
        )
        self.write(self.wanted)
        self.directory.run.mkdir()

    def write(self, wanted: Wanted) -> None:
        """Do as the agent does with a controller's answer."""
        self.directory.wanted.write_bytes(wanted.encoded())

    def words(self, *more: str) -> list[str | Path]:
        """Give the words of the command."""
        return ["emergency-repair", "--data-dir", self.directory.root, *more]

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was asked for."""
        names = {path.name for path in self.directory.root.iterdir()}
        return names == {"etcd", "run", "wanted.json"}

    def finish(self) -> None:
        """Do as the agent does in the end."""
        wait_until(lambda: read_repair(self.directory) is not None, "it is asked for")
        repair = read_repair(self.directory)
        assert repair is not None
        self.write(self.wanted.changed(epoch=repair.epoch))
        forget_repair(self.directory)


@pytest.fixture
def survivor(tmp_path: Path) -> Iterator[Survivor]:
    """Give a manager whose agent runs, and whose etcd does not answer."""
    survivor = Survivor(tmp_path / "ucp")
    with (survivor.directory.run / "agent.lock").open("w") as lock:
        lock.write("4711\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield survivor


@pytest.fixture(autouse=True)
def etcd(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give what etcd says of itself."""
    said: dict[str, Any] = {"is_healthy": False}

    async def is_healthy(_url: str, _tls: object) -> bool:
        return bool(said["is_healthy"])

    monkeypatch.setattr(module, "is_healthy", is_healthy)
    return said


@pytest.fixture
def listening() -> Iterator[Any]:
    """Give what makes an address answer."""
    with ExitStack() as stack:

        def listen(address: str, port: int) -> None:
            stack.enter_context(socket.create_server((address, port)))

        yield listen


@pytest.mark.parametrize("port", [PORT, 2379, 2380])
def test_it_is_refused_while_a_majority_could_be_had(
    survivor: Survivor, listening: Any, port: int
) -> None:
    """Whatever of another manager answers."""
    listening(OTHERS[1], port)
    for lost in ((), ("--lost", OTHERS[0], "--lost", OTHERS[1])):
        message = Ucp().fails(*survivor.words("--yes", *lost))
        assert f"{OTHERS[1]}:{port} can be reached" in message
        assert "ucp uninstall" in message
    assert survivor.is_untouched


def test_it_is_refused_while_etcd_has_its_majority(
    survivor: Survivor, etcd: dict[str, Any]
) -> None:
    """Then there is a better way."""
    etcd["is_healthy"] = True
    assert "ucp node rm" in Ucp().fails(*survivor.words("--yes"))
    assert survivor.is_untouched


def test_whoever_names_the_lost_must_name_all_of_them(survivor: Survivor) -> None:
    """What an operator believes and what is so must not differ."""
    for lost in (OTHERS[:1], (*OTHERS, "127.61.0.9"), ("no such host.invalid",)):
        words = [word for name in lost for word in ("--lost", name)]
        assert "127.61.0.2 and 127.61.0.3" in Ucp().fails(*survivor.words("--yes", *words))
    assert survivor.is_untouched


def test_of_five_one_that_is_left_too_stays_a_node(tmp_path: Path, listening: Any) -> None:
    """With two of five there is no majority; with three there is."""
    managers = tuple(f"127.62.0.{number}" for number in range(2, 6))
    survivor = Survivor(tmp_path / "ucp", (OWN, *managers))
    with (survivor.directory.run / "agent.lock").open("w") as lock:
        lock.write("4711\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        listening(managers[0], 2380)
        told = Ucp().good(*survivor.words("--dry-run", "--json")).json
        assert told["lost"] == list(managers[1:])
        assert told["reachable"] == [managers[0]]
        listening(managers[1], 2379)
        assert "can be reached" in Ucp().fails(*survivor.words("--yes"))
    assert survivor.is_untouched


def test_it_is_refused_where_it_cannot_work(tmp_path: Path, survivor: Survivor) -> None:
    """On no node, a worker, a manager without data or agent, the only manager."""
    nowhere: list[str | Path] = ["emergency-repair", "--data-dir", tmp_path / "nowhere", "--yes"]
    assert "no node of UCP" in Ucp().fails(*nowhere)
    for change in ({"etcd": None}, {"controller": None}):
        survivor.write(survivor.wanted.changed(**change))
        assert "no manager" in Ucp().fails(*survivor.words("--yes"))
    survivor.directory.wanted.write_text("{")
    assert "damaged" in Ucp().fails(*survivor.words("--yes"))
    survivor.write(survivor.wanted.changed(controllers=(f"{OWN}:{PORT}",), etcd_urls=()))
    assert "the only manager" in Ucp().fails(*survivor.words("--yes"))
    survivor.write(survivor.wanted)
    survivor.member.rmdir()
    assert "no manager" in Ucp().fails(*survivor.words("--yes"))
    survivor.member.mkdir()
    (survivor.directory.run / "agent.lock").unlink()
    assert "systemctl start ucp-agent" in Ucp().fails(*survivor.words("--yes"))


def test_without_a_terminal_nothing_is_asked_and_nothing_done(survivor: Survivor) -> None:
    """And a dry run only shows."""
    assert "--yes" in Ucp().fails(*survivor.words())
    ended = Ucp().good(*survivor.words("--dry-run"))
    assert "127.61.0.2 and 127.61.0.3" in ended.out
    assert "May be lost" in ended.out
    assert "a secret" not in ended.out
    assert survivor.is_untouched


def test_at_a_terminal_it_asks(survivor: Survivor) -> None:
    """A no leaves everything as it is; a yes waits for the agent, and says what is next."""
    command = [str(word) for word in (*UCP[1:], *survivor.words())]
    with pexpect.spawn(sys.executable, command, encoding="utf-8", timeout=30) as child:
        child.expect("switched off or wiped for good")
        child.sendline("n")
        child.expect(pexpect.EOF)
    assert survivor.is_untouched
    with pexpect.spawn(sys.executable, command, encoding="utf-8", timeout=30) as child:
        child.expect("switched off or wiped for good")
        child.sendline("y")
        survivor.finish()
        for words in (
            "host1 is the only manager",
            "--existing-replica-id 0123456789ab",
            "ucp join",
        ):
            child.expect(words)
        child.expect(pexpect.EOF)


def test_a_command_that_was_killed_is_run_again(
    survivor: Survivor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the repair under way, checks nothing, asks nothing, and waits for it."""
    repair = repair_of(survivor.wanted, OTHERS, 1_800_000_000)
    write_repair(survivor.directory, repair)
    monkeypatch.setattr(module, "_REPAIR_SECONDS", 0.1)
    assert "run this again" in Ucp().fails(*survivor.words())
    forget_repair(survivor.directory)
    write_repair(survivor.directory, repair)
    survivor.write(survivor.wanted.changed(epoch=repair.epoch))
    monkeypatch.setattr(module, "wait_for", lambda _condition, _seconds: True)
    told = json.loads(Ucp().good(*survivor.words("--json")).out)
    assert told["lost"] == list(OTHERS)
    assert told["replica_id"] == "0123456789ab"


def test_it_says_when_the_agent_did_not_do_it(
    survivor: Survivor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The majority came back meanwhile, or no controller answers after it."""
    monkeypatch.setattr(module, "_FOLLOW_SECONDS", 0.1)
    monkeypatch.setattr(module, "write_repair", lambda directory, _repair: forget_repair(directory))
    assert "has its majority" in Ucp().fails(*survivor.words("--yes"))

    def copied(directory: NodeDirectory, repair: Any) -> None:
        repair.copy_in(directory).mkdir()

    monkeypatch.setattr(module, "write_repair", copied)
    assert "controller of this machine does not answer" in Ucp().fails(*survivor.words("--yes"))
