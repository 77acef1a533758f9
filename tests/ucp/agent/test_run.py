"""The agent's process: alone in its directory, told to systemd, ended in order, also as init."""

import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.support.processes import ProcessGroup, free_port, requires, requires_root, wait_until
from tests.ucp.agent.fakes import make_node, wanted

from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.agent.run import AgentError, run_agent
from dtr.ucp.authority import Authority

AGENT = """
import pathlib, sys
from dtr.ucp.agent.port import NodeDirectory, ProcessSpecification
from dtr.ucp.agent.run import AgentError, run_agent

root = pathlib.Path(sys.argv[1])

class Child:
    def __init__(self, name, supervisor):
        self.name, self.supervisor = name, supervisor

    async def converge(self, wanted):
        script = f"trap 'echo {self.name} >> {root}/ended; exit' TERM; touch {root}/{self.name}"
        # What it leaves is adopted by the process 1 of its world, which is to collect it.
        script += f"; setsid sh -c '(sleep 0.2; touch {root}/orphan) & exec sleep 0.1' & wait"
        script += "; while :; do sleep 0.05; done"
        await self.supervisor.ensure(ProcessSpecification(self.name, ("sh", "-c", script)))

    async def report(self):
        return None

    async def stop(self):
        await self.supervisor.remove(self.name)

try:
    run_agent(
        NodeDirectory(root),
        lambda supervisor, controllers, identity: [
            Child("etcd", supervisor), Child("replica", supervisor)],
        log_format="json",
    )
except AgentError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def root(open_path: Path) -> Path:
    """Give the directory of a node that nobody answers, and that knows what to run."""
    dead = f"127.0.0.1:{free_port()}"
    make_node(open_path / "node", Authority.create("c1", datetime.now(UTC)), (dead,))
    directory = NodeDirectory(open_path / "node")
    directory.wanted.write_bytes(wanted(7, (dead,)).encoded())
    return directory.root


def agent_of(root: Path, *before: str, **environment: str) -> ProcessGroup:
    """Return an agent that is not started yet."""
    command: list[str | Path] = [*before, sys.executable, "-c", AGENT, root]
    log = root / "agent.log"
    return ProcessGroup(command, log=log, environment={**os.environ, **environment})


def test_sigterm_ends_the_components_the_last_one_first_and_the_agent_with_status_0(
    root: Path,
) -> None:
    """Systemd is told when it runs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(root / "notify"))
        notified.settimeout(30)
        agent = agent_of(root, NOTIFY_SOCKET=str(root / "notify"))
        agent.start()
        try:
            assert notified.recv(100) == b"READY=1"
            agent.wait_until_ready(lambda: (root / "etcd").exists() and (root / "replica").exists())
            second = subprocess.run(
                agent.command, capture_output=True, text=True, timeout=60, check=False
            )
            assert second.returncode == 1
            assert f"Another agent runs with {root} (process {agent.pid})." in second.stderr
            assert agent.stop() == 0
        finally:
            agent.kill()
    assert (root / "ended").read_text() == "replica\netcd\n"
    assert '"event":"the agent ends"' in agent.log_tail()


def test_as_process_1_it_collects_what_it_adopts(root: Path) -> None:
    """In a container without an init; else the table of processes fills with dead ones."""
    requires_root("a world of processes of its own")
    unshare = str(requires("unshare"))
    agent = agent_of(root, unshare, "--pid", "--fork", "--mount-proc", "--kill-child=TERM")
    agent.start()
    try:
        agent.wait_until_ready((root / "replica").exists)
        init = int(child_of(agent.pid))
        wait_until((root / "orphan").exists, "an end that init sees")
        wait_until(lambda: len(states(init)) == 2, "the adopted are collected")
        assert "Z" not in states(init)
        os.kill(init, signal.SIGTERM)
        wait_until(lambda: not agent.is_running, "the end")
    finally:
        agent.kill()
    assert (root / "ended").read_text() == "replica\netcd\n"


def child_of(pid: int) -> str:
    """Return the id of the only child."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()


def states(pid: int) -> list[str]:
    """Return how the kernel says that the children of a process are."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            stat = Path(f"/proc/{child}/stat").read_text()
        except OSError:
            continue
        found.append(stat.rpartition(")")[2].split()[0])
    return found


def test_a_directory_that_is_no_nodes_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """And nothing is made in it."""
    with pytest.raises(AgentError, match=r"does not belong to a node.*Run 'ucp install'"):
        run_agent(NodeDirectory(tmp_path), lambda *_: [])
    assert not list(tmp_path.iterdir())
    (tmp_path / "node.json").write_text("{}")
    with pytest.raises(AgentError, match=r"damaged.*Restore it"):
        run_agent(NodeDirectory(tmp_path), lambda *_: [])
