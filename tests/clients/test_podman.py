"""podman: pushes, pulls and manifest lists, with storage of its own, as root."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clients.client import Client, is_refusal
from tests.clients.containers import login, private_client
from tests.clients.images import make_image, write_docker_archive, write_layout, write_oci_archive
from tests.support.registry import Registry, Repository

pytestmark = pytest.mark.clients

PLAIN = "--tls-verify=false"


@pytest.fixture
def podman(home: Path, registry: Registry) -> Iterator[Client]:
    """Give podman, logged in."""
    with private_client("podman", home) as client:
        login(client, registry)
        yield client


def load(podman: Client, name: str, *, architecture: str = "amd64") -> str:
    """Load a new image under a name; give its id."""
    image = make_image(name, architecture=architecture)
    archive = podman.home / "archive.tar"
    write_docker_archive(archive, image, name)
    podman.run("load", "--input", archive)
    archive.unlink()
    return image.config.digest


def push(podman: Client, name: str, *options: str) -> str:
    """Push an image; give the digest that podman says the registry has."""
    file = podman.home / "digest"
    podman.run("push", PLAIN, f"--digestfile={file}", *options, name)
    return file.read_text()


def image_id(podman: Client, name: str) -> str:
    """Give the digest of an image's configuration."""
    return f"sha256:{podman.run('image', 'inspect', '--format={{.Id}}', name).strip()}"


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_a_pushed_image_is_pulled_back_with_its_digest(
    podman: Client, repository: Repository, form: str
) -> None:
    """Push, remove, pull, with manifests of either kind."""
    name = repository.at("v1")
    load(podman, name)
    digest = push(podman, name, f"--format={form}")
    assert repository.digest_of("v1") == digest
    podman.run("rmi", "--all", "--force")
    podman.run("pull", PLAIN, name)
    pulled = podman.run("image", "inspect", "--format={{.Digest}}", name).strip()
    assert pulled == digest


def test_an_oci_image_keeps_the_digest_it_was_made_with(
    podman: Client, repository: Repository, tmp_path: Path
) -> None:
    """An image from an OCI archive reaches the registry with its configuration unchanged."""
    layout = write_layout(tmp_path / "layout", "podman")
    archive = tmp_path / "oci.tar"
    write_oci_archive(archive, layout)
    podman.run("pull", f"oci-archive:{archive}")
    loaded = podman.run("images", "--quiet", "--no-trunc").strip()
    podman.run("push", PLAIN, loaded, f"docker://{repository.at('v1')}")
    config = repository.manifest("v1")["config"]
    assert isinstance(config, dict)
    assert config["digest"] == layout.images[0].config.digest == loaded


def test_a_pulled_image_has_its_files(podman: Client, repository: Repository) -> None:
    """What came back from the registry unpacks to the file system that was pushed.

    A container would prove no more, and ending one costs twenty seconds on a machine with the
    first version of control groups.
    """
    name = repository.at("v1")
    load(podman, name)
    push(podman, name)
    podman.run("rmi", "--all", "--force")
    podman.run("pull", PLAIN, name)
    root = Path(podman.run("image", "mount", name).strip())
    assert (root / "mark-1").read_text() == f"{name} amd64 1\n"
    assert (root / "bin" / "busybox").stat().st_mode & 0o777 == 0o755
    podman.run("image", "unmount", name)


def test_an_image_can_be_pulled_by_digest(podman: Client, repository: Repository) -> None:
    """A digest names the same image as the tag did."""
    name = repository.at("v1")
    load(podman, name)
    by_digest = repository.at(push(podman, name))
    loaded = image_id(podman, name)
    podman.run("rmi", "--all", "--force")
    podman.run("pull", PLAIN, by_digest)
    assert image_id(podman, by_digest) == loaded


def test_a_manifest_list_of_two_platforms_is_pushed_and_pulled(
    podman: Client, repository: Repository
) -> None:
    """`manifest push --all` stores the index and both images; a pull picks the platform."""
    multi = repository.at("multi")
    podman.run("manifest", "create", multi)
    ids = {}
    for architecture in ("amd64", "arm64"):
        name = repository.at(architecture)
        load(podman, name, architecture=architecture)
        ids[architecture] = image_id(podman, name)
        podman.run("manifest", "add", multi, f"containers-storage:{name}")
    podman.run("manifest", "push", PLAIN, "--all", multi, f"docker://{multi}")
    manifests = repository.manifest("multi")["manifests"]
    assert isinstance(manifests, list)
    platforms = [manifest["platform"]["architecture"] for manifest in manifests]
    assert sorted(platforms) == ["amd64", "arm64"]
    podman.run("manifest", "rm", multi)
    podman.run("rmi", "--all", "--force")
    podman.run("pull", PLAIN, "--arch=arm64", multi)
    assert image_id(podman, multi) == ids["arm64"]


def test_a_layer_compressed_with_zstd_comes_back(podman: Client, repository: Repository) -> None:
    """A layer of another compression is stored and given back as it is."""
    name = repository.at("zstd")
    load(podman, name)
    push(podman, name, "--format=oci", "--compression-format=zstd")
    manifest = repository.manifest("zstd")
    layers, config = manifest["layers"], manifest["config"]
    assert isinstance(layers, list)
    assert isinstance(config, dict)
    kinds = {layer["mediaType"] for layer in layers}
    assert kinds == {"application/vnd.oci.image.layer.v1.tar+zstd"}
    podman.run("rmi", "--all", "--force")
    podman.run("pull", PLAIN, name)
    assert image_id(podman, name) == config["digest"]


def test_a_deleted_image_cannot_be_pulled(podman: Client, repository: Repository) -> None:
    """What the API deleted is unknown to a pull."""
    name = repository.at("v1")
    load(podman, name)
    push(podman, name)
    repository.delete("v1")
    podman.run("rmi", "--all", "--force")
    assert "manifest unknown" in podman.refused("pull", PLAIN, name)


def test_a_push_after_logout_is_refused(podman: Client, repository: Repository) -> None:
    """Without an account nothing is stored."""
    name = repository.at("v1")
    load(podman, name)
    podman.run("logout", repository.registry.address)
    assert is_refusal(podman.refused("push", PLAIN, name))
    assert repository.digest_of("v1") is None


def test_a_login_with_a_wrong_password_is_refused(home: Path, registry: Registry) -> None:
    """The login itself says so, before anything is pushed."""
    with private_client("podman", home) as podman:
        options = (PLAIN, "--username", registry.username, "--password-stdin")
        output = podman.refused("login", *options, registry.address, stdin="wrong")
        assert is_refusal(output)
