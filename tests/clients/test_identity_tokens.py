"""What `docker login` stores, and who else can use it: with refresh tokens and without."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.clients.client import Client, ClientFailedError
from tests.clients.containers import private_client
from tests.clients.engine import load, login, running_engine
from tests.support.processes import requires
from tests.support.registry import Registry, Repository
from tests.support.server import RunningServer

pytestmark = pytest.mark.clients

PASSWORD = "a password of the user's own"
PLAIN = "--tls-verify=false"


@dataclass
class Place:
    """A docker client that is logged in and has pushed an image, and podman in the same home."""

    server: RunningServer
    docker: Client
    podman: Client
    repository: Repository

    @property
    def stored(self) -> dict[str, str]:
        """What docker keeps for the registry."""
        document = json.loads(self.docker_file.read_text())
        found: dict[str, str] = document["auths"][self.server.address]
        return found

    @property
    def docker_file(self) -> Path:
        """Where docker keeps it."""
        return self.docker.home / ".docker" / "config.json"

    def log_in_podman(self, password: str) -> str:
        """Log podman in with a name and a password of any kind."""
        words = ("login", PLAIN, "--username", "alice", "--password-stdin", self.server.address)
        return self.podman.run(*words, stdin=password)

    def token(self) -> str:
        """Make an access token."""
        made: str = json.loads(self.server.run("token", "create", "alice", "--json"))["token"]
        return made


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of a private engine."""
    requires("podman")
    with running_engine(tmp_path_factory.mktemp("dockerd")) as address:
        yield address


@pytest.fixture
def place(
    engine: str, home: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Place]:
    """Give both clients at a registry with the setting that the test names."""
    environment = {"DTR_AUTH__REFRESH_TOKENS": request.param}
    with ExitStack() as stack:
        server = stack.enter_context(RunningServer(tmp_path, environment=environment))
        account = server.add_user("alice", PASSWORD)
        registry = Registry(server.address, *account, log=server.log, server=server)
        repository = registry.new_repository("tokens")
        docker = Client("docker", home, "--host", engine)
        login(docker, registry)
        load(docker, repository.at("v1"))
        docker.run("push", repository.at("v1"))
        podman = stack.enter_context(private_client("podman", home))
        yield Place(server, docker, podman, repository)


@pytest.mark.parametrize("place", ["offer"], indirect=True)
def test_an_identity_token_pulls_and_pushes_with_podman_and_only_its_login_refuses_it(
    place: Place,
) -> None:
    """Docker's file works with it as it is; `podman login` wants it to be gone first."""
    assert place.stored["identitytoken"]
    assert PASSWORD not in place.docker_file.read_text()
    name, authorized = place.repository.at("v1"), f"--authfile={place.docker_file}"
    place.podman.run("pull", PLAIN, authorized, name)
    place.podman.run("push", PLAIN, authorized, name, place.repository.at("v2"))
    assert place.repository.digest_of("v2") is not None
    for password in (PASSWORD, place.token()):
        with pytest.raises(ClientFailedError, match="contains an Identity token"):
            place.log_in_podman(password)
    place.docker.run("logout", place.server.address)
    assert "Login Succeeded!" in place.log_in_podman(place.token())
    place.podman.run("pull", PLAIN, name)


@pytest.mark.parametrize("place", ["withhold"], indirect=True)
def test_without_refresh_tokens_docker_stores_what_every_program_can_use(place: Place) -> None:
    """The password, which `podman login` takes over; an access token instead is as good."""
    assert "identitytoken" not in place.stored
    name = place.repository.at("v1")
    assert "Already logged in" in place.podman.run("login", PLAIN, place.server.address)
    place.podman.run("pull", PLAIN, f"--authfile={place.docker_file}", name)
    assert "Login Succeeded!" in place.log_in_podman(place.token())
    place.podman.run("pull", PLAIN, name)
    place.podman.run("push", PLAIN, name, place.repository.at("v2"))
    assert place.repository.digest_of("v2") is not None
