"""Starting and ending this machine's agent: by systemd where it runs, else in the background."""

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Final

from dtr.server.datadir import write_atomically
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.client import UcpError

UNIT: Final = Path("/etc/systemd/system/ucp-agent.service")

_SYSTEMD: Final = Path("/run/systemd/system")
_STOP_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.2
_LOG_LINES: Final = 15
_SYSTEMCTL_SECONDS: Final = 150
_SECRETS: Final = frozenset({"UCP_PASSWORD", "UCP_ADMIN_PASSWORD", "UCP_JOIN_TOKEN"})


def agent_command(directory: NodeDirectory) -> list[str]:
    """Return the command that runs this machine's agent in the foreground, with this Python."""
    return [sys.executable, "-m", "dtr.cli.ucp", "agent", "--data-dir", str(directory.root)]


def start_command(directory: NodeDirectory) -> str:
    """Return the same as a person types it."""
    return shlex.join(agent_command(directory))


def unit_text(directory: NodeDirectory) -> str:
    """Return what systemd is told about this machine's agent."""
    template = resources.files("dtr.ucp.agent").joinpath(UNIT.name).read_text(encoding="utf-8")
    # systemd reads variables in the words of a command, and there only.
    command = " ".join(_systemd_word(word).replace("$", "$$") for word in agent_command(directory))
    place = _systemd_word(str(directory.root))
    return template.replace("@COMMAND@", command).replace("@DATA_DIRECTORY@", place)


def _systemd_word(text: str) -> str:
    """Return a word of a unit such that systemd reads it as it is."""
    escaped = text.replace("\\", r"\\").replace('"', r"\"").replace("%", "%%")
    return f'"{escaped}"'


def start_agent(directory: NodeDirectory) -> Callable[[], bool]:
    """Start the agent for good; return what tells whether it is still there.

    Raises:
        UcpError: it cannot be started.

    """
    if _SYSTEMD.is_dir():
        write_atomically(UNIT, unit_text(directory).encode(), mode=0o644)
        _systemctl("daemon-reload")
        _systemctl("enable", "--now", UNIT.name)
        return lambda: True
    environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    with (directory.logs / "agent.log").open("ab") as output:
        started = subprocess.Popen(  # noqa: S603 - our own program
            agent_command(directory),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    return lambda: started.poll() is None


def start_agent_until(
    is_ready: Callable[[], bool], directory: NodeDirectory, *, seconds: float, failure: str
) -> None:
    """Start the agent for good, and return when it has come so far.

    Raises:
        UcpError: it has not in time, or it ended; the message is `failure` and what to do.

    """
    is_alive = start_agent(directory)
    if wait_for(lambda: is_ready() or not is_alive(), seconds) and is_ready():
        return
    if _SYSTEMD.is_dir():  # which starts it again by itself
        raise UcpError(
            failure,
            f"See 'journalctl -u ucp-agent' and the logs in {directory.logs}, and repair the "
            "cause. The agent tries again by itself; 'ucp uninstall' undoes everything.",
        )
    tail = _log_tail(directory)
    raise UcpError(
        failure,
        f"Look at the logs in {directory.logs}, mend it, and start the agent again: "
        f"{start_command(directory)}" + (f"\n{tail}" if tail else ""),
    )


def stop_agent(directory: NodeDirectory) -> bool:
    """End the agent and with it all that it runs; return whether one ran.

    Raises:
        UcpError: it does not end.

    """
    if _SYSTEMD.is_dir() and UNIT.exists():
        _systemctl("disable", "--now", UNIT.name)
        UNIT.unlink(missing_ok=True)
        _systemctl("daemon-reload")
        return True
    pid = agent_pid(directory)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    if not wait_for(lambda: not _is_running(pid), _STOP_SECONDS):
        raise UcpError(
            f"The agent (process {pid}) has not ended after {_STOP_SECONDS:.0f} s.",
            f"Look at {directory.logs / 'agent.log'}, end it, and run this again.",
        )
    return True


def agent_pid(directory: NodeDirectory) -> int | None:
    """Return the process that holds the data directory as its agent; None where there is none."""
    try:
        with (directory.run / "agent.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read().strip() or 0) or None
    except (OSError, ValueError):
        pass  # no lock: no agent has ever run here
    return None


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in {"Z", "X"}


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Return True once the condition holds, False where it did not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _log_tail(directory: NodeDirectory) -> str:
    try:
        lines = (directory.logs / "agent.log").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-_LOG_LINES:])


def _systemctl(*words: str) -> None:
    done = subprocess.run(  # noqa: S603 - the words are ours
        ["systemctl", *words],  # noqa: S607 - wherever the system has it
        capture_output=True,
        text=True,
        timeout=_SYSTEMCTL_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise UcpError(
            f"systemctl {' '.join(words)} failed: {done.stderr.strip()}",
            "Look at 'journalctl -u ucp-agent'.",
        )
