"""docker and skopeo push through a balancer that sends each request to another server.

`TEST_BALANCED_PUSHES` (30) is how many images are pushed, half of them by each.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clients.client import Client, ClientFailedError
from tests.clients.engine import load, login, running_engine
from tests.clients.images import write_layout
from tests.support.balanced import BalancedServers
from tests.support.postgresql import RunningPostgresql, temporary_database
from tests.support.registry import USER, Registry

pytestmark = [pytest.mark.clients, pytest.mark.postgresql, pytest.mark.timeout(1800)]

PUSHES = int(os.environ.get("TEST_BALANCED_PUSHES", "30")) // 2
LAYERS = 6


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, postgresql: RunningPostgresql
) -> Iterator[BalancedServers]:
    """Give three servers on one PostgreSQL and one directory behind HAProxy."""
    with (
        temporary_database(postgresql) as url,
        BalancedServers(tmp_path_factory.mktemp("balanced"), database_url=url) as servers,
    ):
        servers.servers[0].add_user(*USER)
        yield servers


@pytest.fixture(scope="module")
def registry(servers: BalancedServers) -> Registry:
    """Give the registry as its clients see it: one address."""
    return Registry(servers.balancer.address, *USER, log=servers.balancer.log)


def without_errors(servers: BalancedServers) -> bool:
    """Whether nobody was answered with 5xx, also where a client tried again in silence."""
    return not any(status >= 500 for status in servers.balancer.statuses())


def test_every_push_of_docker_succeeds(
    registry: Registry,
    servers: BalancedServers,
    home: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Images of several layers arrive whole, and are pulled back."""
    repository = registry.new_repository("docker")
    failures = []
    with running_engine(tmp_path_factory.mktemp("dockerd")) as engine:
        docker = Client("docker", home, "--host", engine)
        login(docker, registry)
        for number in range(PUSHES):
            name = repository.at(f"v{number}")
            image = load(docker, name, layers=LAYERS)
            try:
                docker.run("push", name)
                docker.run("rmi", "--force", image)
                docker.run("pull", name)
                docker.run("rmi", "--force", image)
            except ClientFailedError as error:
                failures.append(str(error))
    assert failures == []
    assert without_errors(servers)


def test_every_push_of_skopeo_succeeds(
    registry: Registry, servers: BalancedServers, home: Path, tmp_path: Path
) -> None:
    """Likewise; and the digest is the one that was pushed."""
    repository = registry.new_repository("skopeo")
    skopeo = Client("skopeo", home)
    options = ("--tls-verify=false", "--username", registry.username, "--password-stdin")
    skopeo.run("login", *options, registry.address, stdin=registry.password)
    failures = []
    for number in range(PUSHES):
        layout = write_layout(tmp_path / f"v{number}", f"skopeo {number}", layers=LAYERS)
        target = f"docker://{repository.at(f'v{number}')}"
        try:
            skopeo.run("copy", "--dest-tls-verify=false", layout.source, target)
        except ClientFailedError as error:
            failures.append(str(error))
        assert repository.digest_of(f"v{number}") == layout.digest
    assert failures == []
    assert without_errors(servers)
