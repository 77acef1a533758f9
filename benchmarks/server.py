"""One running contender: started on a free port, watched, and surely ended."""

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.contenders import Certificate, Contender, Site
from benchmarks.failure import BenchmarkError
from benchmarks.processes import started, tree
from benchmarks.wire import HOST, Address, Connection, Response

START_SECONDS = 60.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.002
TOKEN_SECONDS = 200.0  # ours live for 300


class Server:
    """A contender on its data directory. Restarts keep the data and change the port."""

    def __init__(self, contender: Contender, folder: Path, certificate: Certificate) -> None:
        self.contender = contender
        self.first_answer_seconds = 0.0
        self._folder = folder
        self.certificate = certificate
        self._child: subprocess.Popen[bytes] | None = None
        self._tokens: dict[str, tuple[float, Mapping[str, str]]] = {}
        (folder / "data").mkdir(parents=True)

    @property
    def pid(self) -> int:
        """The process that was started; its descendants belong to the contender too."""
        if self._child is None:
            raise BenchmarkError(f"{self.contender.key} is not running")
        return self._child.pid

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.site.data

    def start(self, *, tls: bool = False, environment: Mapping[str, str] | None = None) -> None:
        """Start the program and wait for its first answer, which is timed."""
        self.site = Site(self._folder, free_port(), self.certificate if tls else None)
        self.address = Address(self.site.port, self._context() if tls else None)
        self._tokens.clear()
        command = self.contender.command(self.site)
        surroundings = (
            os.environ | dict(self.contender.environment(self.site)) | dict(environment or {})
        )
        if shutil.which("setpriv"):  # ends with us even when we are killed
            command = ["setpriv", "--pdeathsig", "TERM", "--", *command]
        with (self._folder / "log").open("ab") as log:
            begin = time.perf_counter()
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=surroundings, cwd=self._folder, start_new_session=True,
            )  # fmt: skip
        self._wait_for_answer(begin)

    def ensure(self, *, tls: bool) -> None:
        """Have it running, with TLS or without."""
        ended = self._child is None or self._child.poll() is not None
        if ended or (self.address.tls is not None) != tls:
            self.restart(tls=tls)

    def restart(self, *, tls: bool = False, environment: Mapping[str, str] | None = None) -> None:
        """Stop it and start it again on the same data."""
        self.stop()
        self.start(tls=tls, environment=environment)

    def stop(self) -> None:
        """Ask it to end, then kill what is left of its tree."""
        child, self._child = self._child, None
        if child is None:
            return
        family = {pid: started(pid) for pid in tree(child.pid)}
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS)
        family |= {pid: started(pid) for pid in tree(child.pid)}
        for pid, begun in family.items():
            if begun and started(pid) == begun:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        child.wait()

    def headers(self, repository: str, *, fresh: bool = False) -> Mapping[str, str]:
        """Return the headers that authorize work on `repository`."""
        got, headers = self._tokens.get(repository, (0.0, {}))
        if fresh or time.monotonic() - got > TOKEN_SECONDS or not got:
            headers = self.contender.authorization(self.site, self.address, repository)
            self._tokens[repository] = (time.monotonic(), headers)
        return headers

    def get(self, target: str, repository: str) -> Response:
        """GET something of a repository; the answer must be 200."""
        with Connection(self.address) as link:
            answer = link.request("GET", target, self.headers(repository))
        return answer.expect(200, f"GET {target}")

    def log_tail(self) -> str:
        """Return the end of the program's log."""
        text = (self._folder / "log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-5:])

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate.certificate))

    def _wait_for_answer(self, begin: float) -> None:
        assert self._child
        while time.perf_counter() - begin < START_SECONDS:
            if self._child.poll() is not None:
                break
            with contextlib.suppress(OSError, BenchmarkError), Connection(self.address) as probe:
                if probe.request("GET", "/v2/").status in {200, 401}:
                    self.first_answer_seconds = time.perf_counter() - begin
                    return
            time.sleep(POLL_SECONDS)
        tail = self.log_tail()
        self.stop()
        raise BenchmarkError(f"{self.contender.title} did not start:\n{tail}")


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
