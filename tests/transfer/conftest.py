"""Servers that registries are moved from and to."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.clients.client import Client
from tests.support.processes import ProcessGroup, find_program, free_port
from tests.support.registry import PEER_CONFIG, PEER_PASSWORD_HASH, USER
from tests.support.server import RunningServer, answers

PROGRAMS = ("docker-registry", "registry")


@dataclass(frozen=True)
class Distribution:
    """A docker-registry with one account, and skopeo to fill it."""

    address: str
    data: Path
    skopeo: Client

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://{self.address}"

    def push(self, source: str, name: str, *options: str) -> None:
        """Copy an image into it."""
        target = f"docker://{self.address}/{name}"
        credentials = ":".join(USER)
        self.skopeo.run(
            "copy", "--dest-tls-verify=false", "--dest-creds", credentials, *options, source, target
        )


@pytest.fixture(params=PROGRAMS)
def distribution(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Distribution]:
    """Give an empty CNCF Distribution, of version 2 and of version 3."""
    skopeo = Client("skopeo", tmp_path / "home")
    with running_distribution(request.param, tmp_path / "old") as (address, data):
        yield Distribution(address, data, skopeo)


@contextmanager
def running_distribution(name: str, directory: Path) -> Iterator[tuple[str, Path]]:
    """Run a docker-registry; give its address and its data directory."""
    program = find_program(name)
    if program is None:
        pytest.skip(f"not on this machine: {name}")
    directory.mkdir()
    address = f"127.0.0.1:{free_port()}"
    passwords, data = directory / "htpasswd", directory / "data"
    passwords.write_text(f"{USER[0]}:{PEER_PASSWORD_HASH}\n")
    config = directory / "config.yml"
    config.write_text(PEER_CONFIG.format(data=data, address=address, passwords=passwords))
    server = ProcessGroup([program, "serve", config], log=directory / "registry.log")
    server.start()
    try:
        server.wait_until_ready(lambda: answers(f"http://{address}/"))
        yield address, data
    finally:
        server.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Give what makes servers of ours, each with a directory of its own, stopped in the end."""
    with ExitStack() as stack:

        def made(name: str, **options: str) -> RunningServer:
            directory = tmp_path / name
            directory.mkdir()
            server = RunningServer(directory, **options)  # type: ignore[arg-type]
            stack.callback(server.stop)
            return server.start()

        yield made
