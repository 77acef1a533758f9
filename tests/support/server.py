"""A real DTR server process for a test: started, found ready by condition, ended for certain."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from tests.support.processes import ROOT, ProcessGroup, free_port

DTR = (sys.executable, "-m", "dtr")
UCP = (sys.executable, "-m", "dtr.cli.ucp")
ADMIN = "admin"
ADMIN_PASSWORD = "correct horse battery staple"
READY_SECONDS = 60.0


class RunningServer:
    """`dtr serve` in a process group of its own, on a loopback port that stays the same.

    Everything it writes is below `directory`: the data in `data`, the log in `server.log`. The
    data outlive `stop`, `kill` and `restart`, as they would on a machine that lost its power.
    With the URL of a database or of a storage it shares that with other servers, as `dtr user`
    and the other commands do which are run on its data.

        with RunningServer(tmp_path) as server:
            server.add_user("alice", "a long enough password")
            httpx.get(server.url + "/v2/", auth=("alice", "a long enough password"))
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        database_url: str = "",
        storage_url: str = "",
    ) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.host = "127.0.0.1"
        self.port = free_port(self.host) if port is None else port
        self.admin = (ADMIN, ADMIN_PASSWORD)
        shared = {"DTR_DATABASE__URL": database_url, "DTR_STORAGE__URL": storage_url}
        self._environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            **{name: url for name, url in shared.items() if url},
            **(environment or {}),
        }
        self._password_file = directory / "admin-password"
        self._processes = ProcessGroup(
            [
                *DTR,
                "serve",
                "--data-dir",
                self.data_dir,
                "--listen",
                self.address,
                "--admin-password-file",
                self._password_file,
                *options,
            ],
            log=directory / "server.log",
            environment=self._environment,
        )

    @property
    def address(self) -> str:
        """The server's host:port, as it stands in front of a repository's name."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The server's address as a URL without a slash at its end."""
        return f"http://{self.address}"

    @property
    def log(self) -> Path:
        """The file with everything that the server said since it was first started."""
        return self._processes.log

    @property
    def pid(self) -> int:
        """The id of the server's parent process and of the process group."""
        return self._processes.pid

    @property
    def is_running(self) -> bool:
        """Whether the server's parent process is there."""
        return self._processes.is_running

    @property
    def is_ready(self) -> bool:
        """Whether the server answers `GET /_ping` with 200 right now."""
        return answers(f"{self.url}/_ping")

    def start(self, *, seconds: float = READY_SECONDS) -> Self:
        """Start the server and return once it is ready.

        Raises:
            RuntimeError: It ended while starting; the end of its log is in the message.
            TimeoutError: It was not ready in time and has been killed; likewise.

        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(f"{ADMIN_PASSWORD}\n")
        self._processes.start()
        self._processes.wait_until_ready(lambda: self.is_ready, seconds=seconds)
        return self

    def stop(self, *, seconds: float = 20) -> int:
        """Ask the server to end and wait; give its exit status (-9: it had to be killed)."""
        return self._processes.stop(seconds=seconds)

    def kill(self) -> None:
        """Kill every process of the server at once, as if the machine had lost its power."""
        self._processes.kill()

    def restart(self, *, seconds: float = READY_SECONDS) -> None:
        """Stop the server if it runs, start it again on the same port and data."""
        self.stop()
        self.start(seconds=seconds)

    def run(self, *arguments: str) -> str:
        """Run another `dtr` command on the server's data; give what it printed.

        Raises:
            RuntimeError: It failed; both its outputs are in the message.

        """
        return run_dtr(*arguments, "--data-dir", str(self.data_dir), environment=self._environment)

    def add_user(self, name: str, password: str) -> tuple[str, str]:
        """Make a user account; give its name and password, as a client wants them."""
        file = self.directory / f"password-of-{name}"
        file.touch(mode=0o600)
        file.write_text(f"{password}\n")
        self.run("user", "add", name, "--password-file", str(file))
        return name, password

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def run_dtr(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a `dtr` command to its end; give what it printed.

    Raises:
        RuntimeError: It failed; both its outputs are in the message.

    """
    ended = subprocess.run(
        [*DTR, *arguments],
        cwd=ROOT,
        env=None if environment is None else dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if ended.returncode != 0:
        raise RuntimeError(
            f"dtr {' '.join(arguments)}: exit status {ended.returncode}\n"
            f"{ended.stdout}{ended.stderr}"
        )
    return ended.stdout


def answers(url: str) -> bool:
    """Whether a GET of this URL gets a 2xx within two seconds, past any configured proxy."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=2):
            return True
    except (URLError, OSError):
        return False
