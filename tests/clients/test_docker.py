"""docker: the client and a private engine of its own, which needs root."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clients.client import Client, is_refusal
from tests.clients.engine import load, login, running_engine
from tests.clients.images import make_image
from tests.support.registry import Registry, Repository

pytestmark = pytest.mark.clients

MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of a private engine."""
    with running_engine(tmp_path_factory.mktemp("dockerd")) as address:
        yield address


@pytest.fixture
def docker(engine: str, home: Path, registry: Registry) -> Client:
    """Give a docker client, logged in."""
    client = Client("docker", home, "--host", engine)
    login(client, registry)
    return client


def repository_digests(docker: Client, name: str) -> list[str]:
    """Give the digests that the engine knows an image by."""
    digests: list[str] = json.loads(
        docker.run("image", "inspect", "--format={{json .RepoDigests}}", name)
    )
    return digests


def image_id(docker: Client, name: str) -> str:
    """Give the digest of an image's configuration."""
    return docker.run("image", "inspect", "--format={{.Id}}", name).strip()


def test_a_pushed_image_is_pulled_back_with_its_digest(
    docker: Client, repository: Repository
) -> None:
    """Push, remove, pull: digest and id are what they were."""
    name = repository.at("v1")
    loaded = load(docker, name)
    docker.run("push", name)
    digest = repository.digest_of("v1")
    assert repository_digests(docker, name) == [f"{repository.location}@{digest}"]
    docker.run("rmi", "--force", loaded)
    docker.run("pull", name)
    assert repository_digests(docker, name) == [f"{repository.location}@{digest}"]
    assert image_id(docker, name) == loaded


def test_an_image_of_many_layers_keeps_them_all(docker: Client, repository: Repository) -> None:
    """More layers than the engine moves at once go out and come back in order."""
    name = repository.at("layers")
    loaded = load(docker, name, layers=12)
    docker.run("push", name)
    docker.run("rmi", "--force", loaded)
    docker.run("pull", name)
    assert image_id(docker, name) == loaded
    layers = json.loads(docker.run("image", "inspect", "--format={{json .RootFS.Layers}}", name))
    assert len(layers) == 12


def test_an_imported_root_file_system_runs_after_a_pull(
    docker: Client, repository: Repository
) -> None:
    """`docker import` makes an image; what was pulled of it starts a container."""
    name = repository.at("imported")
    tar = docker.home / "root.tar"
    tar.write_bytes(make_image("imported").tars[0])
    docker.run("import", tar, name)
    docker.run("push", name)
    docker.run("rmi", "--force", image_id(docker, name))
    docker.run("pull", name)
    output = docker.run("run", "--rm", "--network=none", name, "/bin/echo", "it runs")
    assert output == "it runs\n"


def test_an_image_can_be_pulled_by_digest(docker: Client, repository: Repository) -> None:
    """A digest names the same image as the tag did."""
    name = repository.at("v1")
    loaded = load(docker, name)
    docker.run("push", name)
    by_digest = repository.at(str(repository.digest_of("v1")))
    docker.run("rmi", "--force", loaded)
    docker.run("pull", by_digest)
    assert image_id(docker, by_digest) == loaded


def test_all_tags_are_pushed_and_pulled_together(docker: Client, repository: Repository) -> None:
    """`--all-tags` asks for the list of tags and fetches each."""
    loaded = {tag: load(docker, repository.at(tag)) for tag in ("v1", "v2", "v3")}
    docker.run("push", "--all-tags", repository.location)
    docker.run("rmi", "--force", *loaded.values())
    docker.run("pull", "--all-tags", repository.location)
    assert {tag: image_id(docker, repository.at(tag)) for tag in loaded} == loaded


def test_layers_are_mounted_from_another_repository(docker: Client, repository: Repository) -> None:
    """A push of known layers to a second repository uploads none of them."""
    name = repository.at("v1")
    load(docker, name)
    docker.run("push", name)
    other = repository.registry.new_repository("mounted")
    docker.run("tag", name, other.at("v1"))
    output = docker.run("push", other.at("v1"))
    assert f"Mounted from {repository.name}" in output
    assert other.digest_of("v1") == repository.digest_of("v1")


def test_a_second_push_uploads_nothing(docker: Client, repository: Repository) -> None:
    """Layers which the registry has are recognized."""
    name = repository.at("v1")
    load(docker, name)
    docker.run("push", name)
    output = docker.run("push", name)
    assert output.count("Layer already exists") == 2
    assert "Pushed" not in output


def test_a_manifest_list_of_two_platforms_is_pushed_and_pulled(
    docker: Client, repository: Repository
) -> None:
    """`docker manifest` joins two images; a pull picks the machine's own platform."""
    ids = {}
    for architecture in ("amd64", "arm64"):
        name = repository.at(architecture)
        ids[architecture] = load(docker, name, architecture=architecture)
        docker.run("push", name)
    multi = repository.at("multi")
    parts = [repository.at(architecture) for architecture in ids]
    docker.run("manifest", "create", "--insecure", multi, *parts)
    docker.run("manifest", "annotate", "--arch=arm64", multi, parts[1])
    pushed = docker.run("manifest", "push", "--insecure", multi).strip()
    assert repository.digest_of("multi") == pushed
    assert repository.manifest("multi")["mediaType"] == MANIFEST_LIST
    docker.run("rmi", "--force", *ids.values())
    docker.run("pull", "--platform=linux/arm64", multi)
    assert image_id(docker, multi) == ids["arm64"]


def test_a_deleted_image_cannot_be_pulled(docker: Client, repository: Repository) -> None:
    """What the API deleted is unknown to a pull by tag and by digest."""
    name = repository.at("v1")
    loaded = load(docker, name)
    docker.run("push", name)
    digest = str(repository.digest_of("v1"))
    repository.delete("v1")
    docker.run("rmi", "--force", loaded)
    assert "not found" in docker.refused("pull", name)
    assert "not found" in docker.refused("pull", repository.at(digest))


def test_a_deleted_image_can_be_pushed_again(docker: Client, repository: Repository) -> None:
    """The same bytes come back under the same digest."""
    name = repository.at("v1")
    load(docker, name)
    docker.run("push", name)
    digest = repository.digest_of("v1")
    repository.delete("v1")
    docker.run("push", name)
    assert repository.digest_of("v1") == digest


def test_a_push_after_logout_is_refused(docker: Client, repository: Repository) -> None:
    """Without an account nothing is stored."""
    name = repository.at("v1")
    load(docker, name)
    docker.run("logout", repository.registry.address)
    assert is_refusal(docker.refused("push", name))
    assert repository.digest_of("v1") is None


def test_a_pull_after_logout_is_refused(docker: Client, repository: Repository) -> None:
    """What a push made is private."""
    name = repository.at("v1")
    loaded = load(docker, name)
    docker.run("push", name)
    docker.run("rmi", "--force", loaded)
    docker.run("logout", repository.registry.address)
    assert is_refusal(docker.refused("pull", name))


def test_another_user_can_neither_pull_nor_push(docker: Client, repository: Repository) -> None:
    """A repository belongs to the namespace that it is in."""
    stranger = repository.registry.as_another_user()
    name = repository.at("v1")
    load(docker, name)
    docker.run("push", name)
    digest = repository.digest_of("v1")
    login(docker, stranger)
    docker.run("rmi", "--force", image_id(docker, name))
    docker.refused("pull", name)
    load(docker, repository.at("v2"))
    assert "denied" in docker.refused("push", repository.at("v2"))
    assert repository.digest_of("v2") is None
    assert repository.digest_of("v1") == digest


def test_an_administrator_pushes_to_any_namespace(docker: Client, repository: Repository) -> None:
    """What an administrator put there its owner can pull."""
    administrator = repository.registry.as_administrator()
    name = repository.at("v1")
    loaded = load(docker, name)
    login(docker, administrator)
    docker.run("push", name)
    docker.run("rmi", "--force", loaded)
    login(docker, repository.registry)
    docker.run("pull", name)
    assert image_id(docker, name) == loaded


def test_a_login_with_a_wrong_password_is_refused(
    engine: str, home: Path, registry: Registry
) -> None:
    """The login itself says so, before anything is pushed."""
    client = Client("docker", home, "--host", engine)
    options = ("--username", registry.username, "--password-stdin", registry.address)
    assert is_refusal(client.refused("login", *options, stdin="wrong"))
