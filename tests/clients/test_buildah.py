"""buildah: builds from nothing and pushes, with storage of its own, as root."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clients.client import Client, is_refusal
from tests.clients.containers import login, private_client
from tests.clients.images import PLATFORMS, make_image
from tests.support.registry import Registry, Repository

pytestmark = pytest.mark.clients

PLAIN = "--tls-verify=false"


@pytest.fixture
def buildah(home: Path, registry: Registry) -> Iterator[Client]:
    """Give buildah, logged in; its working containers are removed afterwards."""
    with private_client("buildah", home) as client:
        login(client, registry)
        yield client
        client.run("rm", "--all")


def commit(buildah: Client, name: str, *, base: str = "scratch", arch: str = "amd64") -> str:
    """Add a file to a base and commit the result under a name; give its id."""
    container = buildah.run("from", f"--arch={arch}", PLAIN, base).strip()
    file = buildah.home / "message"
    file.write_text(f"{name}\n")
    buildah.run("copy", container, file, "/message")
    return buildah.run("commit", "--rm", "--quiet", container, name).strip()


def push(buildah: Client, name: str) -> str:
    """Push an image; give the digest that buildah says the registry has."""
    file = buildah.home / "digest"
    buildah.run("push", PLAIN, f"--digestfile={file}", name, f"docker://{name}")
    return file.read_text()


def test_an_image_made_from_scratch_is_pulled_back(buildah: Client, repository: Repository) -> None:
    """From scratch, commit, push, remove, pull: the same image."""
    name = repository.at("v1")
    committed = commit(buildah, name)
    assert repository.digest_of("v1") is None
    assert push(buildah, name) == repository.digest_of("v1")
    buildah.run("rmi", "--all", "--force")
    assert buildah.run("pull", PLAIN, "--quiet", name).strip() == committed


def test_an_image_is_built_on_one_from_the_registry(
    buildah: Client, repository: Repository
) -> None:
    """`build` pulls its base from the registry, runs a command in it and adds a layer."""
    base = repository.at("base")
    (buildah.home / "root.tar").write_bytes(make_image("buildah").tars[0])
    scratch = buildah.home / "Containerfile.base"
    scratch.write_text("FROM scratch\nADD root.tar /\n")
    buildah.run("build", "--file", scratch, "--tag", base, buildah.home)
    push(buildah, base)
    buildah.run("rmi", "--all", "--force")
    further = buildah.home / "Containerfile"
    further.write_text(f'FROM {base}\nRUN ["/bin/sh", "-c", "echo built > /built"]\n')
    options = (PLAIN, "--network=none", "--layers")
    buildah.run("build", *options, "--file", further, "--tag", repository.at("v1"), buildah.home)
    push(buildah, repository.at("v1"))
    layers = repository.manifest("v1")["layers"]
    base_layers = repository.manifest("base")["layers"]
    assert isinstance(layers, list)
    assert isinstance(base_layers, list)
    assert layers[: len(base_layers)] == base_layers
    assert len(layers) == len(base_layers) + 1


def test_an_index_of_two_platforms_is_pushed(buildah: Client, repository: Repository) -> None:
    """`manifest push --all` stores the index and both images."""
    multi = repository.at("multi")
    buildah.run("manifest", "create", multi)
    for architecture in PLATFORMS:
        name = repository.at(architecture)
        commit(buildah, name, arch=architecture)
        buildah.run("manifest", "add", f"--arch={architecture}", multi, name)
    buildah.run("manifest", "push", PLAIN, "--all", multi, f"docker://{multi}")
    manifests = repository.manifest("multi")["manifests"]
    assert isinstance(manifests, list)
    for manifest in manifests:
        assert repository.digest_of(manifest["digest"]) == manifest["digest"]
    assert len(manifests) == 2


def test_a_push_after_logout_is_refused(buildah: Client, repository: Repository) -> None:
    """Without an account nothing is stored."""
    name = repository.at("v1")
    commit(buildah, name)
    buildah.run("logout", repository.registry.address)
    assert is_refusal(buildah.refused("push", PLAIN, name, f"docker://{name}"))
    assert repository.digest_of("v1") is None
