"""A docker engine of a test's own, and what a docker client does with it first."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.clients.client import Client, ClientFailedError, isolated_environment
from tests.clients.images import make_image, write_docker_archive
from tests.support.processes import ProcessGroup, requires, requires_root, unmount_beneath
from tests.support.registry import Registry


@contextmanager
def running_engine(directory: Path) -> Iterator[str]:
    """Give the address of a private engine; loopback registries need no TLS there."""
    requires_root("the docker engine")
    program = requires("dockerd", "containerd", "runc", "docker")
    address = f"unix://{directory / 'socket'}"
    options = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs")
    daemon = ProcessGroup(
        [
            *(program, "--host", address, *options),
            *("--data-root", directory / "data", "--exec-root", directory / "exec"),
            *("--pidfile", directory / "pid"),
        ],
        log=directory / "dockerd.log",
        environment=isolated_environment(directory / "home"),
    )
    client = Client("docker", directory / "home", "--host", address)
    daemon.start()
    try:
        daemon.wait_until_ready(lambda: is_answered(client), seconds=60)
        yield address
    finally:
        daemon.stop(seconds=30)
        unmount_beneath(directory)


def is_answered(client: Client) -> bool:
    """Whether the engine answers its client."""
    try:
        client.run("version")
    except ClientFailedError:
        return False
    return True


def login(client: Client, registry: Registry) -> None:
    """Log in with the account's password from standard input."""
    options = ("--username", registry.username, "--password-stdin", registry.address)
    assert "Login Succeeded" in client.run("login", *options, stdin=registry.password)


def load(docker: Client, name: str, *, architecture: str = "amd64", layers: int = 2) -> str:
    """Load a new image into the engine under a name; give its id."""
    image = make_image(name, architecture=architecture, layers=layers)
    archive = docker.home / "archive.tar"
    write_docker_archive(archive, image, name)
    docker.run("load", "--input", archive)
    return image.config.digest
