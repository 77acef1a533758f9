"""The registry under test as its clients see it, and what a test asks of it directly."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest
from tests.support.processes import ProcessGroup, free_port, requires
from tests.support.server import RunningServer, answers

SWITCH = "TEST_REGISTRY"
PEER = "docker-registry"
USER = ("alice", "alice's long enough password")
OTHER_PASSWORD = "another long enough password"

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)

# The password of USER: Debian's registry takes bcrypt only, which nothing here can make.
PEER_PASSWORD_HASH = "$2b$04$DTRpeerDTRpeerDTRpeer.tioDQ.hfF9UJ0DtFW5/vitBcv1JrLM."
PEER_CONFIG = """\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {data}}}
  delete: {{enabled: true}}
http: {{addr: "{address}"}}
auth:
  htpasswd: {{realm: peer, path: {passwords}}}
"""


@dataclass(frozen=True)
class Registry:
    """A registry that listens without TLS, and an account which may push to its namespace."""

    address: str
    username: str
    password: str = field(repr=False)
    is_ours: bool = True
    log: Path | None = None
    server: RunningServer | None = field(default=None, repr=False)
    """The server itself, when this session started it."""

    @property
    def url(self) -> str:
        """The registry's address as a URL without a slash at its end."""
        return f"http://{self.address}"

    @property
    def credentials(self) -> str:
        """The account as clients take it on their command lines."""
        return f"{self.username}:{self.password}"

    def new_repository(self, prefix: str) -> "Repository":
        """Name a repository that nobody has used; the first push creates it."""
        return Repository(self, f"{self.username}/{prefix}-{uuid.uuid4().hex[:8]}")

    def as_another_user(self) -> "Registry":
        """Give the registry as seen by a new user; skip the test where none can be made."""
        if self.server is None:
            pytest.skip("users can be made only in a server of our own")
        name, password = self.server.add_user(f"bob{uuid.uuid4().hex[:6]}", OTHER_PASSWORD)
        return replace(self, username=name, password=password)

    def as_administrator(self) -> "Registry":
        """Give the registry as its first administrator sees it; skip where that is unknown."""
        if self.server is None:
            pytest.skip("the administrator is known only in a server of our own")
        name, password = self.server.admin
        return replace(self, username=name, password=password)


@dataclass(frozen=True)
class Repository:
    """A repository under test, asked over HTTP with basic authentication."""

    registry: Registry
    name: str

    @property
    def location(self) -> str:
        """Host, port and name, as they stand in front of `:tag`."""
        return f"{self.registry.address}/{self.name}"

    def at(self, reference: str) -> str:
        """Give the full name of a tag or of a digest in this repository."""
        separator = "@" if ":" in reference else ":"
        return f"{self.location}{separator}{reference}"

    def request(self, method: str, path: str) -> httpx.Response:
        """Ask `/v2/<name>/<path>` as the account."""
        return httpx.request(
            method,
            f"{self.registry.url}/v2/{self.name}/{path}",
            auth=(self.registry.username, self.registry.password),
            headers={"Accept": ", ".join(MANIFEST_TYPES)},
            trust_env=False,
            timeout=20,
        )

    def digest_of(self, reference: str) -> str | None:
        """Give the digest that a tag points at; None when the registry knows no such manifest."""
        answer = self.request("HEAD", f"manifests/{reference}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        answer.raise_for_status()
        return str(answer.headers["Docker-Content-Digest"])

    def manifest(self, reference: str) -> dict[str, object]:
        """Give a manifest that is there, parsed."""
        answer = self.request("GET", f"manifests/{reference}").raise_for_status()
        parsed: dict[str, object] = answer.json()
        return parsed

    def referrers(self, digest: str) -> list[dict[str, object]]:
        """Give what the referrers endpoint (distribution-spec end-12a) lists for a digest."""
        answer = self.request("GET", f"referrers/{digest}").raise_for_status()
        manifests: list[dict[str, object]] = answer.json()["manifests"]
        return manifests

    def delete(self, reference: str) -> None:
        """Delete the manifest that a tag points at, and with it the tag."""
        digest = self.digest_of(reference)
        self.request("DELETE", f"manifests/{digest}").raise_for_status()


@contextmanager
def registry_under_test(directory: Path) -> Iterator[Registry]:
    """Give the registry that `TEST_REGISTRY` names; a DTR server of our own without it.

    The switch is `host:port,user,password` for one that runs already, or `docker-registry` for a
    private one from Debian's package: what fails there too is not our server's fault.
    """
    switch = os.environ.get(SWITCH, "")
    if not switch:
        with RunningServer(directory) as server:
            account = server.add_user(*USER)
            yield Registry(server.address, *account, log=server.log, server=server)
    elif switch == PEER:
        with running_peer(directory) as address:
            yield Registry(address, *USER, is_ours=False, log=directory / "peer.log")
    else:
        address, username, password = switch.split(",", 2)
        is_ours = answers(f"http://{address}/_ping")
        yield Registry(address, username, password, is_ours=is_ours)


@contextmanager
def running_peer(directory: Path) -> Iterator[str]:
    """Run Debian's registry with one account; give its address."""
    program = requires(PEER)
    address = f"127.0.0.1:{free_port()}"
    passwords = directory / "htpasswd"
    passwords.write_text(f"{USER[0]}:{PEER_PASSWORD_HASH}\n")
    config = directory / "peer.yml"
    config.write_text(
        PEER_CONFIG.format(data=directory / "peer-data", address=address, passwords=passwords)
    )
    peer = ProcessGroup([program, "serve", config], log=directory / "peer.log")
    peer.start()
    try:
        peer.wait_until_ready(lambda: answers(f"http://{address}/"))
        yield address
    finally:
        peer.stop()
