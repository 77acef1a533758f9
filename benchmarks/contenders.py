"""The registries that are compared: how each is found, configured and started."""

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks.failure import BenchmarkError
from benchmarks.wire import HOST, Address, Connection

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent
TOOLS = REPOSITORY_ROOT / ".tools" / "bin"
DISTRIBUTION_MODULE = "github.com/distribution/distribution/v3/cmd/registry@v3.1.1"
PEER_CONFIGURATION = """\
version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: {data}
  delete:
    enabled: true
http:
  addr: {host}:{port}
  headers:
    X-Content-Type-Options: [nosniff]
"""
PEER_TLS = """\
  tls:
    certificate: {certificate}
    key: {key}
"""
PEER_HEALTH = """\
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
"""


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1 and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Site:
    """Where one contender lives: its folder, its port, and TLS when it is on."""

    folder: Path
    port: int
    certificate: Certificate | None = None

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"


class Contender(ABC):
    """A registry program. Its methods make no assumption about which others run."""

    key: ClassVar[str]
    title: ClassVar[str]

    def prepare(self) -> str | None:
        """Make the program available; return why it cannot take part, or nothing."""
        return None

    def open(self, folder: Path) -> None:
        """Start what the program needs beside it, with its files in `folder`."""
        del folder

    def close(self) -> None:  # noqa: B027 - most have nothing to end
        """End what `open` started."""

    @abstractmethod
    def version(self) -> str:
        """Return the version that the program reports."""

    @abstractmethod
    def command(self, site: Site) -> list[str]:
        """Write what the program needs into `site` and return how to start it."""

    def environment(self, site: Site) -> Mapping[str, str]:
        """Return what is added to the environment."""
        del site
        return {}

    def authorization(self, site: Site, address: Address, repository: str) -> Mapping[str, str]:
        """Return the headers that allow pull and push on `repository`."""
        del site, address, repository
        return {}

    def collect_command(self, site: Site) -> list[str] | None:
        """Return how to collect garbage while the registry serves, if it can."""
        del site
        return None

    def collect_environment(self) -> Mapping[str, str]:
        """Return the environment in which what was just pushed may be collected, on command."""
        return {}


class Dtr(Contender):
    """Ours, with authentication on: every request carries a bearer token."""

    key = "dtr"
    title = "DTR"
    administrator = "admin"

    def prepare(self) -> str | None:
        """Look for the command beside this Python, then on PATH."""
        return None if self._program() else "there is no `dtr` command; install the project"

    def version(self) -> str:
        """Return what `dtr --version` says."""
        return _output([self._program(), "--version"])

    def command(self, site: Site) -> list[str]:
        """Write the administrator's password and return `dtr serve ...`."""
        password = self._password_file(site)
        if not password.exists():
            password.touch(mode=0o600)
            password.write_text(secrets.token_urlsafe(24), encoding="utf-8")
        command = [
            self._program(), "serve",
            "--data-dir", str(site.data),
            "--listen", f"{HOST}:{site.port}",
            "--admin-password-file", str(password),
        ]  # fmt: skip
        if site.certificate:
            command += ["--tls-cert", str(site.certificate.certificate)]
            command += ["--tls-key", str(site.certificate.key)]
        return command

    def authorization(self, site: Site, address: Address, repository: str) -> Mapping[str, str]:
        """Fetch a token with the administrator's password, as docker does."""
        password = self._password_file(site).read_text(encoding="utf-8").strip()
        basic = base64.b64encode(f"{self.administrator}:{password}".encode()).decode()
        target = f"/auth/token?service=dtr&scope=repository:{repository}:pull,push"
        with Connection(address) as connection:
            answer = connection.request("GET", target, {"Authorization": f"Basic {basic}"})
        answer.expect(200, "token")
        return {"Authorization": f"Bearer {json.loads(answer.body)['token']}"}

    def collect_command(self, site: Site) -> list[str]:
        """Return `dtr gc` on the data directory."""
        return [self._program(), "gc", "--data-dir", str(site.data)]

    def collect_environment(self) -> Mapping[str, str]:
        """Shorten the grace of a blob, and let the server's own collector wait."""
        return {"DTR_COLLECT__GRACE_SECONDS": "1", "DTR_COLLECT__INTERVAL_SECONDS": "86400"}

    @staticmethod
    def _password_file(site: Site) -> Path:
        return site.folder / "password"

    @staticmethod
    def _program() -> str:
        beside = Path(sys.executable).parent / "dtr"
        return str(beside) if beside.exists() else shutil.which("dtr") or ""


class Before(Dtr):
    """Another checkout of ours, to see what a change costs: `BENCH_BEFORE=/its/.venv/bin/dtr`."""

    key = "before"
    title = "DTR before"

    def prepare(self) -> str | None:
        """Look for the command that the environment names."""
        found = Path(self._program()).is_file()
        return None if found else "BENCH_BEFORE does not name a `dtr` command"

    @staticmethod
    def _program() -> str:
        return os.environ.get("BENCH_BEFORE", "")


class Peer(Contender):
    """The reference implementation, in one of its two living major versions."""

    program: ClassVar[str]

    def version(self) -> str:
        """Return what `--version` says."""
        return _output([self.program, "--version"])

    def command(self, site: Site) -> list[str]:
        """Write the configuration file and return `registry serve FILE`."""
        text = PEER_CONFIGURATION.format(data=site.data, host=HOST, port=site.port)
        if site.certificate:
            text += PEER_TLS.format(
                certificate=site.certificate.certificate, key=site.certificate.key
            )
        file = site.folder / "config.yml"
        file.write_text(text + PEER_HEALTH, encoding="utf-8")
        return [self.program, "serve", str(file)]


class DockerRegistry(Peer):
    """Debian's docker-registry package."""

    key = "docker-registry"
    title = "docker-registry 2.8.2"
    program = "/usr/bin/docker-registry"

    def prepare(self) -> str | None:
        """Look for the package."""
        if Path(self.program).exists():
            return None
        return f"{self.program} is missing; install Debian's docker-registry"


class Distribution(Peer):
    """Distribution 3.1.1, built with Go into .tools/bin when it is not there."""

    key = "distribution"
    title = "distribution 3.1.1"
    program = os.environ.get("BENCH_DISTRIBUTION", str(TOOLS / "registry"))

    def prepare(self) -> str | None:
        """Build the program once."""
        if Path(self.program).exists():
            return None
        go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
        if not go:
            return f"{self.program} is missing and there is no Go to build it"
        print(f"building {DISTRIBUTION_MODULE} into {TOOLS}", flush=True)
        environment = os.environ | {"GOBIN": str(TOOLS)}
        built = subprocess.run(
            [go, "install", DISTRIBUTION_MODULE],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        lines = built.stderr.strip().splitlines()
        return None if built.returncode == 0 else f"go install failed: {lines[-1:]}"

    def environment(self, site: Site) -> Mapping[str, str]:
        """Turn off the export of traces to a collector that is not there."""
        del site
        return {"OTEL_TRACES_EXPORTER": "none"}


OURS = Dtr.key


def is_ours(key: str) -> bool:
    """Tell whether this is DTR, on whatever backend."""
    return key.startswith(OURS)


def make_certificate(folder: Path) -> Certificate:
    """Make the certificate that all contenders use for the TLS rows."""
    made = Certificate(folder / "tls.crt", folder / "tls.key")
    command = [
        "openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={HOST}",
        "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-addext", f"subjectAltName=IP:{HOST}",
        "-keyout", str(made.key), "-out", str(made.certificate),
    ]  # fmt: skip
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise BenchmarkError(f"openssl could not make a certificate: {finished.stderr.strip()}")
    return made


def _output(command: list[str]) -> str:
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return (shown.stdout or shown.stderr).strip()
