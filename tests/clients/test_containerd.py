"""containerd: `ctr` and a private daemon of its own, which needs root."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clients.client import Client, ClientFailedError, is_refusal, isolated_environment
from tests.clients.images import (
    Layout,
    write_layout,
    write_multi_platform_layout,
    write_oci_archive,
)
from tests.support.processes import ProcessGroup, requires, requires_root, unmount_beneath
from tests.support.registry import Repository

pytestmark = pytest.mark.clients

# Only what images need: the other plugins look for file systems and networks of this machine.
CONFIG = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "{directory}/socket"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the socket of a private containerd."""
    requires_root("containerd")
    program = requires("containerd", "ctr")
    directory = tmp_path_factory.mktemp("containerd")
    config = directory / "config.toml"
    config.write_text(CONFIG.format(directory=directory))
    process = ProcessGroup(
        [program, "--config", config],
        log=directory / "containerd.log",
        environment=isolated_environment(directory / "home"),
    )
    client = Client("ctr", directory / "home", "--address", str(directory / "socket"))
    process.start()
    try:
        process.wait_until_ready(lambda: is_answered(client))
        yield directory / "socket"
    finally:
        process.stop()
        unmount_beneath(directory)


def is_answered(client: Client) -> bool:
    """Whether the daemon answers its client."""
    try:
        client.run("version")
    except ClientFailedError:
        return False
    return True


@pytest.fixture
def ctr(daemon: Path, home: Path, request: pytest.FixtureRequest) -> Client:
    """Give ctr in a containerd namespace of the test's own, where nothing is known yet."""
    namespace = re.sub(r"[^a-z0-9]+", "-", request.node.name)[:70].strip("-")
    return Client("ctr", home, "--address", str(daemon), "--namespace", namespace)


def import_layout(ctr: Client, layout: Layout, repository: Repository) -> str:
    """Bring a layout into containerd; give the name, `latest` in the repository, that it has."""
    archive = ctr.home / "archive.tar"
    write_oci_archive(archive, layout)
    options = ("--no-unpack", "--all-platforms", "--base-name", repository.location)
    ctr.run("images", "import", *options, archive)
    return repository.at("latest")


def transfer(ctr: Client, repository: Repository, direction: str, name: str, *more: str) -> str:
    """Push or pull as the account, over plain HTTP."""
    options = ("--plain-http", "--user", repository.registry.credentials)
    return ctr.run("images", direction, *options, *more, name)


def digests(ctr: Client) -> dict[str, str]:
    """Give the digest of each image that containerd has a name for."""
    lines = ctr.run("images", "list").splitlines()[1:]
    return {line.split()[0]: line.split()[2] for line in lines}


def test_a_pushed_image_is_pulled_back_with_its_digest(
    ctr: Client, repository: Repository, tmp_path: Path
) -> None:
    """Import, push, remove, pull: the same digest."""
    layout = write_layout(tmp_path / "layout", repository.name, layers=5)
    name = import_layout(ctr, layout, repository)
    transfer(ctr, repository, "push", name)
    assert repository.digest_of("latest") == layout.digest
    ctr.run("images", "remove", "--sync", *digests(ctr))
    transfer(ctr, repository, "pull", name)
    assert digests(ctr)[name] == layout.digest


def test_a_multi_platform_image_is_pushed_and_pulled_whole(
    ctr: Client, repository: Repository, tmp_path: Path
) -> None:
    """The index and every platform's image go out and come back."""
    layout = write_multi_platform_layout(tmp_path / "layout", repository.name)
    name = import_layout(ctr, layout, repository)
    transfer(ctr, repository, "push", name)
    assert repository.digest_of("latest") == layout.digest
    for image in layout.images:
        assert repository.digest_of(image.digest) == image.digest
    ctr.run("images", "remove", "--sync", *digests(ctr))
    transfer(ctr, repository, "pull", name, "--all-platforms")
    assert digests(ctr)[name] == layout.digest


def test_a_pull_without_an_account_is_refused(
    ctr: Client, repository: Repository, tmp_path: Path
) -> None:
    """What a push made is private."""
    layout = write_layout(tmp_path / "layout", repository.name)
    name = import_layout(ctr, layout, repository)
    transfer(ctr, repository, "push", name)
    output = ctr.refused("images", "pull", "--plain-http", name)
    assert is_refusal(output)


def test_a_push_without_an_account_is_refused(
    ctr: Client, repository: Repository, tmp_path: Path
) -> None:
    """Nothing is stored."""
    layout = write_layout(tmp_path / "layout", repository.name)
    name = import_layout(ctr, layout, repository)
    ctr.refused("images", "push", "--plain-http", name)
    assert repository.digest_of("latest") is None
