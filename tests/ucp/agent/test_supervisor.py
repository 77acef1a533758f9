"""Processes are started, looked after, restarted, reloaded and ended; real children throughout."""

import asyncio
import os
import pwd
import signal
import socket
from collections.abc import Awaitable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.processes import free_port, group_exists, requires_root
from tests.ucp.agent.conftest import QUICK, until

from dtr.ucp.agent.keeper import Pauses
from dtr.ucp.agent.port import NodeDirectory, ProcessSpecification, SupervisionError
from dtr.ucp.agent.supervisor import ProcessSupervisor
from dtr.ucp.model import ProcessState

PYTHON = "/usr/bin/python3"


def shell(script: str, name: str = "child", **values: Any) -> ProcessSpecification:
    """Specify a shell script."""
    return ProcessSpecification(name=name, command=("sh", "-c", script), **values)


def lines(path: Path) -> list[str]:
    """Return what a child wrote."""
    return path.read_text().splitlines() if path.exists() else []


async def ready_pid(supervisor: ProcessSupervisor, name: str = "child") -> int:
    """Return the id of a process once it is ready."""
    await until(lambda: supervisor.report(name).state is ProcessState.READY, f"{name} ready")
    pid = supervisor.report(name).pid
    assert pid is not None
    return pid


async def test_a_process_runs_and_asking_again_leaves_it_alone(
    supervisor: ProcessSupervisor,
) -> None:
    """Components ask each second."""
    await supervisor.ensure(shell("exec sleep 60"))
    pid = await ready_pid(supervisor)
    await supervisor.ensure(shell("exec sleep 60", stop_seconds=5))
    assert await ready_pid(supervisor) == pid
    assert [report.name for report in supervisor.reports()] == ["child"]


async def test_ensure_returns_before_a_process_is_ready(supervisor: ProcessSupervisor) -> None:
    """Readiness is asked for again and again, whatever the question raises or how it hangs."""
    answers: list[str] = []

    async def is_ready() -> bool:
        answers.append("asked")
        if len(answers) == 1:
            raise ConnectionRefusedError
        if len(answers) == 2:
            raise asyncio.CancelledError
        return len(answers) > 3

    await supervisor.ensure(shell("exec sleep 60", is_ready=is_ready))
    assert supervisor.report("child").state is not ProcessState.READY
    pid = await ready_pid(supervisor)
    assert len(answers) > 3
    assert supervisor.report("child").restarts == 0

    def fail() -> Awaitable[bool]:
        raise OSError("no certificate to ask with")

    await supervisor.ensure(shell("exec sleep 60", is_ready=fail))
    state = ProcessState.STARTING
    await until(lambda: supervisor.report("child").state is state, "the failure is seen")
    assert supervisor.report("child").message == "was ready, and does not answer"
    assert supervisor.report("child").pid == pid


async def test_one_that_is_not_ready_in_time_is_reported_and_left_alone(
    supervisor: ProcessSupervisor,
) -> None:
    """With the last line of its log."""

    async def is_ready() -> bool:
        return False

    script = "echo waiting for the others; exec sleep 60"
    await supervisor.ensure(shell(script, is_ready=is_ready, ready_seconds=0.1))
    await until(lambda: "not ready" in supervisor.report("child").message, "a message")
    report = supervisor.report("child")
    assert report.state is ProcessState.STARTING
    assert report.restarts == 0
    assert report.message.endswith("child.log ends: waiting for the others")


async def test_a_process_that_ends_is_started_again_with_growing_pauses(
    supervisor: ProcessSupervisor, open_path: Path
) -> None:
    """And the report says how it ended, how often, and what it said."""
    starts = open_path / "starts"
    await supervisor.ensure(shell(f"date +%s.%N >> {starts}; echo no disk; exit 3"))
    await until(lambda: len(lines(starts)) >= 5, "five starts")
    times = [float(line) for line in lines(starts)]
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses[0] >= 0.05
    assert pauses[1] >= 0.1
    assert pauses[3] >= 0.2
    await until(lambda: supervisor.report("child").state is ProcessState.BACKING_OFF, "a pause")
    report = supervisor.report("child")
    assert report.restarts >= 5
    assert f"exited with status 3, {report.restarts} times" in report.message
    assert report.message.endswith("child.log ends: no disk")


async def test_who_was_ready_for_a_while_begins_with_the_shortest_pause(
    supervisor: ProcessSupervisor,
) -> None:
    """A crash a month is not a crash loop; two in a moment are."""
    await supervisor.ensure(shell("exec sleep 60"))
    with capture_logs() as log:
        for restarts, steady in enumerate((True, True, False), start=1):
            pid = await ready_pid(supervisor)
            if steady:
                await asyncio.sleep(QUICK.steady_seconds * 2)
            os.kill(pid, signal.SIGKILL)
            await until(lambda: supervisor.report("child").restarts == restarts, "the end")  # noqa: B023
    ends = [line for line in log if line["event"] == "a process ended"]
    assert [line["pause_seconds"] for line in ends] == [0.05, 0.05, 0.1]
    assert "was ended by SIGKILL, 2 times; its log is" in ends[-1]["message"]


async def test_an_impatient_process_is_started_again_at_once(open_path: Path) -> None:
    """PostgreSQL waits for its Patroni."""
    slow = Pauses(first_seconds=60, impatient_seconds=60)
    supervisor = ProcessSupervisor(NodeDirectory(open_path), slow)
    try:
        await supervisor.ensure(shell("exec sleep 60", is_patient_after_exit=False))
        pid = await ready_pid(supervisor)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: supervisor.report("child").restarts == 1, "the end")
        assert await ready_pid(supervisor) != pid
    finally:
        await supervisor.close()


async def test_a_changed_reload_key_sends_the_signal_and_restarts_nothing(
    supervisor: ProcessSupervisor, open_path: Path
) -> None:
    """Once it is ready: before that the signal would end it."""
    seen = open_path / "seen"
    trapped, ready = open_path / "trapped", open_path / "ready"
    script = f"trap 'echo usr1 >> {seen}' USR1; touch {trapped}; while :; do sleep 0.05; done"

    async def is_ready() -> bool:
        return ready.exists()

    def specified(key: str) -> ProcessSpecification:
        return shell(script, reload_key=key, reload_signal=signal.SIGUSR1, is_ready=is_ready)

    await supervisor.ensure(specified("a"))
    await until(trapped.exists, "the trap")
    await supervisor.ensure(specified("b"))
    await asyncio.sleep(QUICK.starting_seconds * 3)
    assert not lines(seen)
    ready.touch()
    pid = await ready_pid(supervisor)
    await until(lambda: lines(seen) == ["usr1"], "the first signal")
    await supervisor.ensure(specified("b"))
    await supervisor.ensure(specified("c"))
    await until(lambda: lines(seen) == ["usr1", "usr1"], "the second signal")
    assert supervisor.report("child").pid == pid


@pytest.mark.parametrize(
    "changed", [{"restart_key": "b"}, {"environment": {"A": "b"}}, {"directory": Path("/tmp")}]
)
async def test_any_other_change_restarts(
    supervisor: ProcessSupervisor, changed: dict[str, Any]
) -> None:
    """And is no failure."""
    await supervisor.ensure(shell("exec sleep 60"))
    pid = await ready_pid(supervisor)
    await supervisor.ensure(shell("exec sleep 60", **changed))
    await until(lambda: supervisor.report("child").pid not in {pid, None}, "a new process")
    await ready_pid(supervisor)
    assert supervisor.report("child").restarts == 0
    assert not group_exists(pid)


async def test_a_change_ends_the_pause_after_a_failure(open_path: Path) -> None:
    """Whoever mends the configuration does not wait for the back-off."""
    supervisor = ProcessSupervisor(NodeDirectory(open_path), Pauses(first_seconds=600))
    try:
        await supervisor.ensure(shell("exit 1"))
        state = ProcessState.BACKING_OFF
        await until(lambda: supervisor.report("child").state is state, "a pause")
        await supervisor.ensure(shell("exec sleep 60"))
        await ready_pid(supervisor)
        await supervisor.remove("child")
        assert supervisor.report("child").state is ProcessState.STOPPED
    finally:
        await supervisor.close()


async def test_remove_sends_the_stop_signal_and_waits(
    supervisor: ProcessSupervisor, open_path: Path
) -> None:
    """And the process is gone when it returns."""
    said, ready = open_path / "said", open_path / "ready"
    script = f"trap 'echo bye > {said}; exit 0' INT; touch {ready}; while :; do sleep 0.05; done"
    await supervisor.ensure(shell(script, stop_signal=signal.SIGINT))
    await until(ready.exists, "the trap")
    pid = await ready_pid(supervisor)
    await supervisor.remove("child")
    assert lines(said) == ["bye"]
    assert not group_exists(pid)
    assert supervisor.report("child").state is ProcessState.STOPPED
    assert supervisor.reports() == ()
    await supervisor.remove("child")
    await supervisor.remove("never-there")


async def test_one_that_ignores_its_stop_signal_is_killed_with_its_group(
    supervisor: ProcessSupervisor, open_path: Path
) -> None:
    """Whoever was cut short while waiting for that asks again."""
    ready = open_path / "ready"
    script = f"trap '' TERM; sleep 60 & touch {ready}; while :; do sleep 0.05; done"
    await supervisor.ensure(shell(script, stop_seconds=0.5))
    await until(ready.exists, "the trap")
    pid = await ready_pid(supervisor)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await supervisor.remove("child")
    assert supervisor.report("child").state is ProcessState.STOPPING
    await supervisor.remove("child")
    await until(lambda: not group_exists(pid), "the group's end")


async def test_what_a_dead_process_leaves_of_its_group_is_killed(
    supervisor: ProcessSupervisor, open_path: Path
) -> None:
    """It would hold the ports; what left the group, as PostgreSQL leaves Patroni's, goes on."""
    left = open_path / "left"
    own = f"setsid sleep 60 & echo $! > {left}; sleep 60 & exec sleep 60"
    await supervisor.ensure(shell(own))
    pid = await ready_pid(supervisor)
    await until(lambda: len(lines(left)) == 1, "the children")
    outside = int(lines(left)[0])
    try:
        await until(lambda: os.getsid(outside) == outside, "a session of its own")
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not group_exists(pid), "the group's end")
        os.kill(outside, 0)
        await until(lambda: supervisor.report("child").restarts == 1, "the end was seen")
    finally:
        os.kill(outside, signal.SIGKILL)
        await supervisor.remove("child")
        os.kill(int(lines(left)[-1]), signal.SIGKILL)


async def test_logs_are_rotated_and_bounded(supervisor: ProcessSupervisor, open_path: Path) -> None:
    """Four files of the greatest size, while the process has its file open all the time."""
    goes_on = "i=0; while :; do i=$((i+1)); echo a line with number $i; sleep 0.002; done"
    await supervisor.ensure(shell(goes_on))
    logs = open_path / "log"
    await until((logs / "child.log.3").exists, "three rotations")
    await supervisor.remove("child")
    files = sorted(logs.iterdir())
    assert [file.name for file in files] == [
        "child.log",
        "child.log.1",
        "child.log.2",
        "child.log.3",
    ]
    assert all(0 < file.stat().st_size <= 4096 for file in files[1:])
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert files[1].read_text().splitlines()[-1].startswith("a line with number ")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"command": ("no-such-program",)}, "There is no program no-such-program. Install"),
        ({"name": "../etc"}, "'../etc' is not a name"),
    ],
)
async def test_what_can_never_be_started_is_refused_in_a_sentence(
    supervisor: ProcessSupervisor, values: dict[str, Any], sentence: str
) -> None:
    """And what runs by that name is left alone."""
    specified: dict[str, Any] = {"name": "child", "command": ("true",), **values}
    with pytest.raises(SupervisionError, match=sentence.replace(".", r"\.")):
        await supervisor.ensure(ProcessSpecification(**specified))
    assert supervisor.reports() == ()


async def test_users_that_are_missing_or_shut_out_are_refused(
    supervisor: ProcessSupervisor, open_path: Path
) -> None:
    """The sentence names the directory that is closed."""
    requires_root("another user")
    with pytest.raises(SupervisionError, match="There is no system user nosuchuser"):
        await supervisor.ensure(shell("true", user="nosuchuser"))
    closed = open_path / "closed"
    closed.mkdir(mode=0o700)
    program = closed / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    refused = ProcessSpecification(name="child", command=(str(program),), user="nobody")
    with pytest.raises(SupervisionError, match=f"cannot run .*: it has no access to {closed}"):
        await supervisor.ensure(refused)


def status_of(pid: int) -> dict[str, str]:
    """Return what the kernel says of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return {
        key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }


def environment_of(pid: int) -> str:
    """Return a process's environment as the kernel has it."""
    return Path(f"/proc/{pid}/environ").read_text()


async def test_a_process_is_another_user_without_any_capability(
    supervisor: ProcessSupervisor,
) -> None:
    """And cannot get one back."""
    requires_root("another user")
    await supervisor.ensure(ProcessSpecification("child", ("sleep", "60"), user="nobody"))
    pid = await ready_pid(supervisor)
    await until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "the program")
    status = status_of(pid)
    entry = pwd.getpwnam("nobody")
    assert status["Uid"].split() == [str(entry.pw_uid)] * 4
    assert status["Gid"].split() == [str(entry.pw_gid)] * 4
    assert status["NoNewPrivs"] == "1"
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {int(status[name], 16) for name in names} == {0}
    environment = environment_of(pid)
    assert f"HOME={entry.pw_dir}\0" in environment
    assert {item.partition("=")[0] for item in environment.split("\0")[:-1]} == {
        "PATH",
        "HOME",
        "LANG",
    }


async def test_low_ports_are_for_those_who_may(
    supervisor: ProcessSupervisor, open_path: Path
) -> None:
    """HAProxy and the registry listen on 443, and are not root."""
    requires_root("another user")
    port = next(port for port in range(900, 1000) if is_free(port))
    script = (
        "import socket, time\n"
        f"listener = socket.create_server(('127.0.0.1', {port}))\n"
        "print('listening', flush=True)\n"
        "time.sleep(60)\n"
    )
    log = open_path / "log" / "child.log"
    command = (PYTHON, "-c", script)
    await supervisor.ensure(ProcessSpecification("child", command, user="nobody"))
    await until(lambda: "Permission denied" in supervisor.report("child").message, "a refusal")
    await supervisor.ensure(
        ProcessSpecification("child", command, user="nobody", may_bind_low_ports=True)
    )
    await until(lambda: "listening" in log.read_text(), "a listener")
    assert not is_free(port)


def is_free(port: int) -> bool:
    """Tell whether nobody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_free_port_is_not_a_low_one() -> None:
    """Else the tests of low ports would prove nothing."""
    assert free_port() >= int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
