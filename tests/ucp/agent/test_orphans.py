"""What happens to processes when their agent is killed without a word."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from tests.support.processes import ProcessGroup, group_exists, wait_until
from tests.ucp.agent.conftest import QUICK, until

from dtr.ucp.agent.leftovers import PidFile, end_leftover
from dtr.ucp.agent.port import NodeDirectory, ProcessSpecification
from dtr.ucp.agent.supervisor import ProcessSupervisor

AGENT = """
import asyncio, pathlib, signal, sys
from dtr.ucp.agent.port import NodeDirectory, ProcessSpecification
from dtr.ucp.agent.supervisor import ProcessSupervisor

async def main(root):
    supervisor = ProcessSupervisor(NodeDirectory(root))
    term = f"trap 'echo term > {root}/term; exit' TERM; echo > {root}/ready"
    term += "; while :; do sleep 0.05; done"
    database = f"setsid sleep 60 & echo $! > {root}/database; exec sleep 60"
    await supervisor.ensure(ProcessSpecification("etcd", ("sh", "-c", term)))
    await supervisor.ensure(ProcessSpecification(
        "patroni", ("sh", "-c", database), orphan_signal=signal.SIGKILL))
    await asyncio.Event().wait()

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


def pid_of(path: Path) -> int:
    """Return the id that a pid file names, 0 as long as there is none."""
    try:
        return int(json.loads(path.read_text())["pid"])
    except (OSError, ValueError):
        return 0


def test_a_killed_agents_processes_get_their_orphan_signals(open_path: Path) -> None:
    """The kernel sends them; what Patroni started in a session of its own goes on."""
    agent = ProcessGroup([sys.executable, "-c", AGENT, open_path], log=open_path / "agent.log")
    agent.start()
    etcd, patroni = open_path / "run" / "etcd.pid", open_path / "run" / "patroni.pid"
    database = 0
    try:
        agent.wait_until_ready(lambda: bool(pid_of(etcd) and pid_of(patroni)))
        wait_until((open_path / "ready").exists, "the trap")
        wait_until((open_path / "database").exists, "the database")
        database = int((open_path / "database").read_text())
        wait_until(lambda: os.getsid(database) == database, "a session of its own")
        os.kill(agent.pid, signal.SIGKILL)
        wait_until(lambda: not group_exists(pid_of(etcd)), "the end of etcd")
        wait_until(lambda: not group_exists(pid_of(patroni)), "the end of Patroni")
        assert (open_path / "term").read_text() == "term\n"
        os.kill(database, 0)
    finally:
        agent.kill()
        for pid in filter(None, (database, pid_of(etcd), pid_of(patroni))):
            if group_exists(pid):
                os.killpg(pid, signal.SIGKILL)


def left_running(command: list[str], log: Path) -> ProcessGroup:
    """Start a process as a dead agent would have left it."""
    process = ProcessGroup(command, log=log)
    process.start()
    return process


@pytest.mark.parametrize("how", ["ensure", "remove"])
async def test_a_left_process_is_ended_before_another_of_its_name_starts(
    open_path: Path, how: str
) -> None:
    """Also one that does not care for its orphan signal."""
    ready = open_path / "ready"
    script = f"trap '' TERM; echo > {ready}; while :; do sleep 0.05; done"
    left = left_running(["sh", "-c", script], open_path / "left.log")
    supervisor = ProcessSupervisor(NodeDirectory(open_path), QUICK)
    (open_path / "run").mkdir()
    pid_file = open_path / "run" / "etcd.pid"
    try:
        await until(ready.exists, "the trap")
        PidFile.of(left.pid, signal.SIGTERM, 0.3).write(pid_file)
        if how == "ensure":
            # A process that waits to be collected has no command line any more.
            is_there = f"grep -q . /proc/{left.pid}/cmdline"
            command = ("sh", "-c", f"{is_there} && exit 1; exec sleep 60")
            await supervisor.ensure(ProcessSpecification("etcd", command))
            await until(lambda: pid_of(pid_file) not in {0, left.pid}, "a new process")
            assert supervisor.report("etcd").restarts == 0
        else:
            await supervisor.remove("etcd")
            assert not pid_file.exists()
        await until(lambda: not group_exists(left.pid), "the end of its group")
    finally:
        left.kill()
        await supervisor.close()


async def test_whoever_has_the_id_now_is_left_alone(open_path: Path) -> None:
    """Ids are used again: the time at which it started decides."""
    other = left_running(["sleep", "60"], open_path / "other.log")
    supervisor = ProcessSupervisor(NodeDirectory(open_path), QUICK)
    (open_path / "run").mkdir()
    pid_file = open_path / "run" / "etcd.pid"
    right = PidFile.of(other.pid, signal.SIGTERM, 1)
    try:
        for wrong in (
            PidFile(right.pid, right.started - 1, right.boot_id, right.orphan_signal, 1),
            PidFile(right.pid, right.started, "another boot", right.orphan_signal, 1),
        ):
            wrong.write(pid_file)
            await ProcessSupervisor(NodeDirectory(open_path), QUICK).remove("etcd")
            assert not pid_file.exists()
            assert other.is_running
        for nonsense in ("", "[]", '{"pid": 1}', "\xff"):
            pid_file.write_text(nonsense)
            await ProcessSupervisor(NodeDirectory(open_path), QUICK).remove("etcd")
            assert not pid_file.exists()
        right.write(pid_file)
        await supervisor.remove("etcd")
        assert not other.is_running
    finally:
        other.kill()


async def test_an_id_that_a_thread_has_now_keeps_nothing_from_starting(open_path: Path) -> None:
    """Ids of threads and of processes are the same numbers, and all of them are used again."""
    pid_file = open_path / "registry.pid"
    may_end = threading.Event()
    thread = threading.Thread(target=may_end.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        PidFile.of(thread.native_id, signal.SIGTERM, 1).write(pid_file)
        await end_leftover(pid_file)
        assert not pid_file.exists()
        assert thread.is_alive()
    finally:
        may_end.set()
        thread.join()
