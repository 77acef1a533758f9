"""Real etcd members for tests, with mutual TLS, on loopback addresses; and their certificates."""

import json
import ssl
import tempfile
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.processes import ProcessGroup, free_port, requires

from dtr.ucp.authority import Authority, make_request
from dtr.ucp.etcd import EtcdConnection, EtcdLimits, EtcdLogin, TlsFiles

READY_SECONDS = 60.0
LIMITS = EtcdLimits(connect_seconds=5, try_seconds=10, overall_seconds=30)
"""Patient: the machine that tests run on may be busy."""


class TestAuthority:
    """An authority with a directory of certificates, as nodes have them."""

    __test__ = False

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority.create("test", datetime.now(UTC))

    def issue(self, common_name: str, *names: str) -> TlsFiles:
        """Write a node's certificate and key, and return where they are."""
        made = make_request()
        certificate = self.authority.sign(
            made.request_pem,
            common_name=common_name,
            names=("127.0.0.1", "localhost", *names),
            now=datetime.now(UTC),
        )
        place = self.directory / common_name
        place.mkdir(parents=True, exist_ok=True)
        files = TlsFiles(place / "ca.crt", place / "node.crt", place / "node.key")
        files.ca.write_text(self.authority.certificate_pem)
        files.certificate.write_text(certificate)
        files.key.write_text(made.key_pem)
        files.key.chmod(0o600)
        return files


class EtcdProcess:
    """One member: its ports stay the same over `stop`, `kill` and `start`, as do its data."""

    def __init__(
        self,
        directory: Path,
        authority: TestAuthority,
        name: str,
        address: str,
        ports: tuple[int, int] | None = None,
    ) -> None:
        """`ports` are the client's and the peers'; free ones where none are given."""
        self.name = name
        self.address = address
        self.directory = directory / name
        self.tls = authority.issue(name, address)
        client_port, peer_port = ports or (free_port(address), free_port(address))
        self.client_url = f"https://{address}:{client_port}"
        self.peer_url = f"https://{address}:{peer_port}"
        self._group: ProcessGroup | None = None

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._group is not None and self._group.is_running

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._group is not None
        return self._group.pid

    def start(self, initial_cluster: str = "", *, is_new: bool = False, wait: bool = True) -> None:
        """Start it; `initial_cluster` counts where it has no data yet."""
        tls = self.tls
        common = ["--cert-file", "--key-file", "--trusted-ca-file"]
        peer = ["--peer-cert-file", "--peer-key-file", "--peer-trusted-ca-file"]
        files = [tls.certificate, tls.key, tls.ca]
        command: list[str | Path] = [requires("etcd")]
        command += ["--name", self.name, "--data-dir", self.directory / "data"]
        command += ["--listen-client-urls", self.client_url]
        command += ["--advertise-client-urls", self.client_url]
        command += ["--listen-peer-urls", self.peer_url]
        command += ["--initial-advertise-peer-urls", self.peer_url]
        command += ["--initial-cluster", initial_cluster or f"{self.name}={self.peer_url}"]
        command += ["--initial-cluster-state", "new" if is_new else "existing"]
        for flags in (common, peer):
            for flag, file in zip(flags, files, strict=True):
                command += [flag, file]
        # Not `--client-cert-auth`: see `dtr.ucp.etcd.component`.
        command += ["--peer-client-cert-auth"]
        command += ["--logger", "zap", "--log-level", "warn"]
        self.directory.mkdir(parents=True, exist_ok=True)
        self._group = ProcessGroup(
            command,
            log=self.directory / "log",
        )
        self._group.start()
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Return once it answers with a majority behind it."""
        assert self._group is not None
        self._group.wait_until_ready(self.is_healthy, seconds=READY_SECONDS)

    def is_healthy(self) -> bool:
        """Whether `GET /health` says so."""
        with suppress(OSError, ValueError):
            request = urllib.request.Request(f"{self.client_url}/health")
            context: ssl.SSLContext = self.tls.context()
            with urllib.request.urlopen(request, timeout=3, context=context) as response:
                return bool(json.load(response).get("health") == "true")
        return False

    def stop(self) -> None:
        """End it in order."""
        if self._group is not None:
            self._group.stop()

    def kill(self) -> None:
        """Kill it without warning."""
        if self._group is not None:
            self._group.kill()


class RunningEtcd:
    """An etcd of one or several members, and connections to it.

    with RunningEtcd(members=3) as etcd:
        connection = etcd.connection(EtcdLogin("password"))
    """

    def __init__(self, members: int = 1) -> None:
        requires("etcd")
        self._place = tempfile.TemporaryDirectory(prefix="etcd-")
        self.directory = Path(self._place.name)
        self.authority = TestAuthority(self.directory / "pki")
        self.client_tls = self.authority.issue("client")
        self.members = [self.prepare(number) for number in range(1, members + 1)]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The client URLs of the members that it began with."""
        return tuple(member.client_url for member in self.members)

    @property
    def initial_cluster(self) -> str:
        """What the first members are started with."""
        return ",".join(f"{member.name}={member.peer_url}" for member in self.members)

    def prepare(self, number: int) -> EtcdProcess:
        """Give ports, certificate and directory to a further member, which is not started."""
        return EtcdProcess(self.directory, self.authority, f"m{number}", f"127.0.0.{number}")

    def connection(
        self, login: EtcdLogin | None = None, limits: EtcdLimits = LIMITS
    ) -> EtcdConnection:
        """Return a connection to all members, to be closed by whoever asked."""
        return EtcdConnection(self.endpoints, self.client_tls, login, limits)

    def start(self) -> Self:
        """Start all members and return once they answer."""
        for member in self.members:
            member.start(self.initial_cluster, is_new=True, wait=False)
        for member in self.members:
            member.wait_until_ready()
        return self

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill everything and delete what it wrote."""
        for member in self.members:
            member.kill()
        self._place.cleanup()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
