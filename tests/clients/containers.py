"""What podman and buildah need alike: storage of their own, and how their options are named."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.clients.client import Client
from tests.support.processes import requires_root, unmount_beneath
from tests.support.registry import Registry

STORAGE = """\
[storage]
driver = "{driver}"
graphroot = "{home}/storage"
runroot = "{home}/run/storage"
[storage.options]
pull_options = {{enable_partial_images = "true"}}
"""
CONTAINERS = """\
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
tmp_dir = "{home}/run/libpod"
[network]
network_config_dir = "{home}/networks"
"""


@contextmanager
def private_client(name: str, home: Path, *, driver: str = "vfs") -> Iterator[Client]:
    """Give podman or buildah with image storage below `home`; afterwards nothing is mounted."""
    requires_root(name)
    storage = home / "storage.conf"
    storage.write_text(STORAGE.format(home=home, driver=driver))
    containers = home / "containers.conf"
    containers.write_text(CONTAINERS.format(home=home))
    environment = {
        "CONTAINERS_STORAGE_CONF": str(storage),
        "CONTAINERS_CONF": str(containers),
        "BUILDAH_ISOLATION": "chroot",
    }
    try:
        yield Client(name, home, environment=environment)
    finally:
        unmount_beneath(home)


def login(client: Client, registry: Registry) -> None:
    """Log in with the account's password from standard input."""
    options = ("--tls-verify=false", "--username", registry.username, "--password-stdin")
    output = client.run("login", *options, registry.address, stdin=registry.password)
    assert "Login Succeeded!" in output
