"""Starting one process as another user, such that it cannot outlive the agent.

It is started through `setpriv` (util-linux), which switches the user, takes all capabilities and
every way to regain any, and asks the kernel for the orphan signal. That signal is sent when the
THREAD ends that started the process, hence: start from the agent's event loop, never from a pool.
"""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from dtr.ucp.agent.leftovers import PidFile
from dtr.ucp.agent.logfiles import LogFile
from dtr.ucp.agent.port import ProcessSpecification, SupervisionError
from dtr.ucp.agent.users import closed_part

_LOG = structlog.get_logger()
_SYSTEM_PATHS: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin")
_CAP_SETPCAP: Final = 8
_CAP_NET_BIND_SERVICE: Final = 10
_INTERPRETER_BYTES: Final = 256


def check(specification: ProcessSpecification) -> None:
    """Refuse what can never be started.

    Raises:
        SupervisionError: no such program, no such user, or it may not run the program.

    """
    program = _program(specification.command[0])
    user = switched_user(specification)
    if not user:
        return
    try:
        pwd.getpwnam(user)
    except KeyError:
        raise SupervisionError(
            f"There is no system user {user}, as whom {specification.name} is to run."
            " Install the package that makes it, or create it with useradd --system."
        ) from None
    for path in (program, *_interpreter(program)):
        if closed := closed_part(path, user, is_program=True):
            raise SupervisionError(
                f"The user {user} cannot run {path}: it has no access to {closed}."
                " Install it where every user can read it, such as /opt."
            )


def switched_user(specification: ProcessSpecification) -> str:
    """Return whom the agent must become to run it; empty where it stays who it is."""
    return specification.user if os.geteuid() == 0 and specification.user != "root" else ""


def command_line(specification: ProcessSpecification) -> list[str]:
    """Return what is really started."""
    name = specification.orphan_signal.name
    command = [str(_program("setpriv")), "--no-new-privs", "--pdeathsig", name]
    user = switched_user(specification)
    may_bind = specification.may_bind_low_ports and _has_capability(_CAP_NET_BIND_SERVICE)
    added = ",+net_bind_service" if may_bind else ""
    if user:
        entry = pwd.getpwnam(user)
        command += [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]
        command += [f"--inh-caps=-all{added}", f"--ambient-caps=-all{added}"]
        if _has_capability(_CAP_SETPCAP):  # not in every container
            command += [f"--bounding-set=-all{added}"]
    elif may_bind and os.geteuid() != 0:
        command += ["--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"]
    return [*command, "--", str(_program(specification.command[0])), *specification.command[1:]]


class RunningProcess:
    """A process that was started here, with the group that it leads."""

    def __init__(
        self,
        specification: ProcessSpecification,
        log: LogFile,
        pid_file: Path,
        on_end: Callable[[], None],
    ) -> None:
        """Start it; `on_end` is called once it has ended.

        Raises:
            SupervisionError: the program is gone.
            OSError: the kernel, or the log's disk, does not let it be started.

        """
        self.specification = specification
        """What it was started with, but for what has changed since and needs no restart."""
        self.ended = asyncio.Event()
        self.log_start = log.size()
        self._pid_file = pid_file
        self._on_end = on_end
        self._popen = _start(specification, log)
        self._descriptor = os.pidfd_open(self._popen.pid)
        asyncio.get_running_loop().add_reader(self._descriptor, self._collect)
        # An agent that is killed before this line and whose child has not come to ask for the
        # orphan signal leaves it unseen: a millisecond, once a start.
        self._remember()

    @property
    def pid(self) -> int:
        """The process's id, and its group's."""
        return self._popen.pid

    @property
    def ending(self) -> str:
        """How it ended: `exited with status 1`, `was ended by SIGKILL`."""
        status = self._popen.returncode
        if status is not None and status < 0:
            return f"was ended by {_signal_name(-status)}"
        return f"exited with status {status}"

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; one that has ended does not mind."""
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        """Kill it and its group."""
        if not self.ended.is_set():
            self._kill_group()

    def _remember(self) -> None:
        specification = self.specification
        left = PidFile.of(self.pid, specification.orphan_signal, specification.stop_seconds)
        try:
            left.write(self._pid_file)
        except OSError as error:  # a full disk is no reason not to run
            _LOG.warning("no pid file", process=specification.name, error=str(error))

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _collect(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        # What it left of its group would hold its ports. As long as its own end is not collected,
        # no other group can have this id.
        self._kill_group()
        self._popen.wait()
        self._pid_file.unlink(missing_ok=True)
        self.ended.set()
        self._on_end()


def _start(specification: ProcessSpecification, log: LogFile) -> "subprocess.Popen[bytes]":
    output = log.open()
    try:
        return subprocess.Popen(  # noqa: S603 - what components ask for
            command_line(specification),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=specification.directory or "/",
            env=_environment(specification),
            start_new_session=True,
            umask=0o077,
        )
    finally:
        os.close(output)


def _environment(specification: ProcessSpecification) -> dict[str, str]:
    user = switched_user(specification)
    home = pwd.getpwnam(user).pw_dir if user else os.environ.get("HOME", "/")
    base = {"PATH": _path(), "HOME": home, "LANG": "C.UTF-8"}
    return base | dict(specification.environment)


def _path() -> str:
    own = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(dict.fromkeys((*filter(None, own), *_SYSTEM_PATHS)))


def _program(name: str) -> Path:
    found = shutil.which(name, path=_path())
    if found is None:
        raise SupervisionError(
            f"There is no program {name}."
            " Install the package that brings it, and see that it is on the agent's PATH."
        )
    return Path(found).absolute()


def _interpreter(program: Path) -> list[Path]:
    """Return what a script is run by."""
    try:
        with program.open("rb") as file:
            first = file.read(_INTERPRETER_BYTES)
    except OSError:
        return []
    if not first.startswith(b"#!"):
        return []
    words = first[2:].partition(b"\n")[0].split()
    return [Path(os.fsdecode(words[0]))] if words else []


def _has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> number & 1)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
