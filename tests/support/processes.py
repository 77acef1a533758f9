"""Programs that tests start: found, isolated, waited for by condition, and always ended."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).resolve().parents[2]
OWN_PROGRAMS = ROOT / ".tools" / "bin"
POLL_SECONDS = 0.05


def find_program(name: str) -> Path | None:
    """Find a program: what tools/install-go-tools built first, then what PATH has."""
    path = os.pathsep.join((str(OWN_PROGRAMS), os.environ.get("PATH", os.defpath), "/usr/sbin"))
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def requires(*names: str) -> Path:
    """Give the path of the first program, or skip the test with the names of those missing."""
    missing = [name for name in names if find_program(name) is None]
    if missing:
        pytest.skip(
            f"not on this machine: {', '.join(missing)}"
            " (a Debian package, or tools/install-go-tools for a Go program)"
        )
    first = find_program(names[0])
    assert first is not None
    return first


def requires_root(what: str) -> None:
    """Skip the test when it does not run as root."""
    if os.geteuid() != 0:
        pytest.skip(f"{what} needs root")


def free_port(host: str = "127.0.0.1") -> int:
    """Give a port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = 30) -> None:
    """Return once the condition holds.

    Raises:
        TimeoutError: It did not hold within the deadline.

    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain: {what}")
        time.sleep(POLL_SECONDS)


class ProcessGroup:
    """A long-running program in a process group of its own, logging to a file.

    Ending it ends everything that it started and left in its group.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        self._environment = None if environment is None else dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the program and of its group."""
        if self._process is None:
            raise RuntimeError(f"{self.command[0]} was never started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the program itself has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the program; its output is appended to the log."""
        if self.is_running:
            raise RuntimeError(f"{self.command[0]} is running already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        output: IO[bytes]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def wait_until_ready(self, is_ready: Callable[[], bool], *, seconds: float = 60) -> None:
        """Return once `is_ready` holds; fail with the end of the log when it never will."""

        def settled() -> bool:
            return not self.is_running or is_ready()

        try:
            wait_until(settled, f"{self.command[0]} ready", seconds=seconds)
        except TimeoutError as error:
            self.kill()
            raise TimeoutError(f"{error}\n{self.log_tail()}") from None
        if not self.is_running:
            self.kill()
            raise RuntimeError(f"{self.command[0]} ended while starting\n{self.log_tail()}")

    def stop(self, *, seconds: float = 20) -> int:
        """Ask the program to end, then end what is left of its group; give the exit status.

        A program which outlives the deadline is killed, and its status is then -9.
        """
        if self._process is None:
            return 0
        if self.is_running:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        return self.kill()

    def kill(self) -> int:
        """Kill the whole group at once, without warning; give the program's exit status."""
        if self._process is None:
            return 0
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait(10)
        wait_until(lambda: not group_exists(self.pid), "the process group ended", seconds=10)
        return status

    def log_tail(self, lines: int = 40) -> str:
        """Give the last lines of the log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def group_exists(group: int) -> bool:
    """Whether any process of this group is left that is not merely waiting to be collected."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended while we looked
        state, process_group = fields[0], int(fields[2])
        if process_group == group and state not in {"Z", "X"}:
            return True
    return False


def unmount_beneath(directory: Path) -> None:
    """Unmount whatever a daemon left mounted under a directory, innermost first."""
    prefix = f"{directory.resolve()}/"
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    inside = [mount for mount in mounts if mount.startswith(prefix)]
    for mount in sorted(inside, key=len, reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
