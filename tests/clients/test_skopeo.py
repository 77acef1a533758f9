"""skopeo: copies between layouts and registries, inspects, lists, synchronizes and deletes."""

import json
from pathlib import Path

import pytest
from tests.clients.client import Client, is_refusal
from tests.clients.images import write_layout, write_multi_platform_layout
from tests.support.registry import Registry, Repository

pytestmark = pytest.mark.clients

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@pytest.fixture
def skopeo(home: Path, registry: Registry) -> Client:
    """Give skopeo, logged in."""
    client = Client("skopeo", home)
    login(client, registry)
    return client


def login(client: Client, registry: Registry) -> str:
    """Log in with the account's password from standard input."""
    options = ("--tls-verify=false", "--username", registry.username, "--password-stdin")
    return client.run("login", *options, registry.address, stdin=registry.password)


def push(client: Client, source: str, target: str, *options: str) -> None:
    """Copy something to the registry."""
    client.run("copy", "--dest-tls-verify=false", *options, source, f"docker://{target}")


def pull(client: Client, source: str, target: str, *options: str) -> None:
    """Copy something out of the registry."""
    client.run("copy", "--src-tls-verify=false", *options, f"docker://{source}", target)


def digest_in(layout: Path) -> str:
    """Give the digest of what an OCI layout's index names."""
    index = json.loads((layout / "index.json").read_text())
    return str(index["manifests"][0]["digest"])


def test_a_copied_image_comes_back_with_the_digest_it_had(
    skopeo: Client, repository: Repository, tmp_path: Path
) -> None:
    """From a layout to the registry and to another layout, the bytes stay the same."""
    layout = write_layout(tmp_path / "from", "skopeo", layers=4)
    push(skopeo, layout.source, repository.at("v1"))
    assert repository.digest_of("v1") == layout.digest
    pull(skopeo, repository.at("v1"), f"oci:{tmp_path / 'to'}:latest")
    assert digest_in(tmp_path / "to") == layout.digest


def test_a_multi_platform_image_comes_back_whole(
    skopeo: Client, repository: Repository, tmp_path: Path
) -> None:
    """`copy --all` moves the index and the manifests of every platform unchanged."""
    layout = write_multi_platform_layout(tmp_path / "from", "skopeo")
    push(skopeo, layout.source, repository.at("multi"), "--all")
    assert repository.digest_of("multi") == layout.digest
    for image in layout.images:
        assert repository.digest_of(image.digest) == image.digest
    pull(skopeo, repository.at("multi"), f"oci:{tmp_path / 'to'}:latest", "--all")
    assert digest_in(tmp_path / "to") == layout.digest


def test_one_platform_is_chosen_from_an_index(
    skopeo: Client, repository: Repository, tmp_path: Path
) -> None:
    """A pull for one architecture gets that architecture's manifest."""
    layout = write_multi_platform_layout(tmp_path / "from", "skopeo")
    push(skopeo, layout.source, repository.at("multi"), "--all")
    skopeo.run(
        "--override-arch=arm64",
        "copy",
        "--src-tls-verify=false",
        f"docker://{repository.at('multi')}",
        f"oci:{tmp_path / 'to'}:latest",
    )
    arm64 = next(image for image in layout.images if image.architecture == "arm64")
    assert digest_in(tmp_path / "to") == arm64.digest


def test_an_image_can_be_converted_to_docker_schema_2(
    skopeo: Client, repository: Repository, tmp_path: Path
) -> None:
    """`copy --format v2s2` stores Docker's media types and keeps the layers' digests."""
    layout = write_layout(tmp_path / "from", "skopeo")
    push(skopeo, layout.source, repository.at("docker"), "--format=v2s2")
    manifest = json.loads(
        skopeo.run("inspect", "--raw", "--tls-verify=false", f"docker://{repository.at('docker')}")
    )
    assert manifest["mediaType"] == DOCKER_MANIFEST
    layers = [layer["digest"] for layer in manifest["layers"]]
    assert layers == [layer.digest for layer in layout.images[0].layers]


def test_inspect_shows_the_image_and_its_configuration(
    skopeo: Client, repository: Repository, tmp_path: Path
) -> None:
    """`inspect` reads manifest, configuration and the tags of the repository."""
    layout = write_layout(tmp_path / "from", "skopeo inspects")
    push(skopeo, layout.source, repository.at("v1"))
    push(skopeo, layout.source, repository.at("v2"))
    seen = json.loads(
        skopeo.run("inspect", "--tls-verify=false", f"docker://{repository.at('v1')}")
    )
    assert seen["Digest"] == layout.digest
    assert seen["RepoTags"] == ["v1", "v2"]
    assert seen["Labels"] == {"mark": "skopeo inspects"}


def test_every_tag_is_listed(skopeo: Client, repository: Repository, tmp_path: Path) -> None:
    """`list-tags` gives all tags, and ours in lexical order as the specification wants."""
    layout = write_layout(tmp_path / "from", "skopeo")
    for tag in ("b", "c", "a"):
        push(skopeo, layout.source, repository.at(tag))
    listed = json.loads(
        skopeo.run("list-tags", "--tls-verify=false", f"docker://{repository.location}")
    )
    in_order = repository.registry.is_ours
    assert (listed["Tags"] if in_order else sorted(listed["Tags"])) == ["a", "b", "c"]


def test_a_deleted_image_cannot_be_pulled(
    skopeo: Client, repository: Repository, tmp_path: Path
) -> None:
    """`delete` removes the manifest with its tag."""
    layout = write_layout(tmp_path / "from", "skopeo")
    push(skopeo, layout.source, repository.at("v1"))
    skopeo.run("delete", "--tls-verify=false", f"docker://{repository.at('v1')}")
    assert repository.digest_of("v1") is None
    assert repository.digest_of(layout.digest) is None
    output = skopeo.refused("inspect", "--tls-verify=false", f"docker://{repository.at('v1')}")
    assert "manifest unknown" in output


def test_a_repository_is_synchronized_to_a_directory_and_back(
    skopeo: Client, repository: Repository, tmp_path: Path
) -> None:
    """`sync` takes all tags out to a directory and from there into another repository."""
    digests = {}
    for tag in ("v1", "v2"):
        layout = write_layout(tmp_path / tag, f"skopeo {tag}")
        push(skopeo, layout.source, repository.at(tag))
        digests[tag] = layout.digest
    away = tmp_path / "away"
    away.mkdir()
    skopeo.run(
        *("sync", "--src=docker", "--dest=dir", "--src-tls-verify=false"),
        *(repository.location, str(away)),
    )
    name = repository.name.rpartition("/")[2]
    assert sorted(path.name for path in away.iterdir()) == [f"{name}:v1", f"{name}:v2"]
    copy = repository.registry.new_repository("mirror")
    for tag, digest in digests.items():
        push(skopeo, f"dir:{away / f'{name}:{tag}'}", copy.at(tag))
        assert copy.digest_of(tag) == digest


def test_an_image_is_copied_between_repositories(
    skopeo: Client, repository: Repository, tmp_path: Path
) -> None:
    """Registry to registry, the copy has the same digest."""
    layout = write_layout(tmp_path / "from", "skopeo")
    push(skopeo, layout.source, repository.at("v1"))
    copy = repository.registry.new_repository("copy")
    pull(skopeo, repository.at("v1"), f"docker://{copy.at('v1')}", "--dest-tls-verify=false")
    assert copy.digest_of("v1") == layout.digest


def test_a_push_after_logout_is_refused(
    skopeo: Client, repository: Repository, tmp_path: Path
) -> None:
    """Without an account nothing is stored."""
    layout = write_layout(tmp_path / "from", "skopeo")
    skopeo.run("logout", repository.registry.address)
    output = skopeo.refused(
        "copy", "--dest-tls-verify=false", layout.source, f"docker://{repository.at('v1')}"
    )
    assert is_refusal(output)
    assert repository.digest_of("v1") is None


def test_a_login_with_a_wrong_password_is_refused(home: Path, registry: Registry) -> None:
    """The login itself says so, before anything is pushed."""
    client = Client("skopeo", home)
    options = ("--tls-verify=false", "--username", registry.username, "--password-stdin")
    output = client.refused("login", *options, registry.address, stdin="wrong")
    assert is_refusal(output)
