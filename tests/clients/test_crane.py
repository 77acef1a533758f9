"""crane: pushes, copies, changes and validates images without an engine."""

import json
from pathlib import Path

import pytest
from tests.clients.client import Client, is_refusal
from tests.clients.images import (
    OCI_MANIFEST,
    Blob,
    Layout,
    file_entry,
    make_image,
    tar_of,
    to_json,
    write_blobs,
    write_layout,
    write_multi_platform_layout,
)
from tests.support.registry import Registry, Repository

pytestmark = pytest.mark.clients


@pytest.fixture
def crane(home: Path, registry: Registry) -> Client:
    """Give crane, logged in."""
    client = Client("crane", home)
    options = ("--username", registry.username, "--password-stdin")
    client.run("auth", "login", *options, registry.address, stdin=registry.password)
    return client


def pushed(crane: Client, repository: Repository, tmp_path: Path) -> Layout:
    """Push a new image as `v1`."""
    layout = write_layout(tmp_path / "layout", repository.name, layers=3)
    crane.run("push", layout.path, repository.at("v1"))
    return layout


def test_a_pushed_layout_is_valid_and_comes_back(
    crane: Client, repository: Repository, tmp_path: Path
) -> None:
    """Every blob that the registry gives back has the digest that it should have."""
    layout = pushed(crane, repository, tmp_path)
    assert crane.run("digest", repository.at("v1")).strip() == layout.digest
    crane.run("validate", "--remote", repository.at("v1"))
    crane.run("pull", "--format=oci", repository.at("v1"), tmp_path / "back")
    index = json.loads((tmp_path / "back" / "index.json").read_text())
    assert [manifest["digest"] for manifest in index["manifests"]] == [layout.digest]


def test_a_pushed_index_is_valid(crane: Client, repository: Repository, tmp_path: Path) -> None:
    """An index goes up with the images of all its platforms."""
    layout = write_multi_platform_layout(tmp_path / "layout", repository.name)
    crane.run("push", "--index", layout.path, repository.at("multi"))
    crane.run("validate", "--remote", repository.at("multi"))
    raw = json.loads(crane.run("manifest", repository.at("multi")))
    digests = [manifest["digest"] for manifest in raw["manifests"]]
    expected = [image.digest for image in layout.images]
    assert digests in (expected, [layout.digest])


def test_an_image_is_copied_to_another_repository(
    crane: Client, repository: Repository, tmp_path: Path
) -> None:
    """`copy` keeps the digest."""
    layout = pushed(crane, repository, tmp_path)
    other = repository.registry.new_repository("copied")
    crane.run("copy", repository.at("v1"), other.at("v2"))
    assert other.digest_of("v2") == layout.digest
    crane.run("validate", "--remote", other.at("v2"))


def test_a_layer_is_appended_and_labels_are_changed(
    crane: Client, repository: Repository, tmp_path: Path
) -> None:
    """`append` and `mutate` make new manifests out of what the registry has."""
    layout = pushed(crane, repository, tmp_path)
    tar = tmp_path / "more.tar"
    tar.write_bytes(tar_of([file_entry("more", b"more\n")]))
    crane.run(
        *("append", "--base", repository.at("v1"), "--new_layer", tar),
        *("--new_tag", repository.at("v2")),
    )
    manifest = json.loads(crane.run("manifest", repository.at("v2")))
    assert len(manifest["layers"]) == len(layout.images[0].layers) + 1
    crane.run("mutate", repository.at("v2"), "--label=colour=green", "--tag", repository.at("v3"))
    config = json.loads(crane.run("config", repository.at("v3")))
    assert config["config"]["Labels"]["colour"] == "green"
    crane.run("validate", "--remote", repository.at("v3"))


def test_a_file_system_is_exported(crane: Client, repository: Repository, tmp_path: Path) -> None:
    """`export` reads all layers and puts them together."""
    pushed(crane, repository, tmp_path)
    crane.run("export", repository.at("v1"), tmp_path / "root.tar")
    assert f"{repository.name} amd64 2\n".encode() in (tmp_path / "root.tar").read_bytes()


def test_tags_are_added_listed_and_deleted(
    crane: Client, repository: Repository, tmp_path: Path
) -> None:
    """`tag` and `ls` agree; `delete` by digest takes the manifest away with all its tags."""
    layout = pushed(crane, repository, tmp_path)
    crane.run("tag", repository.at("v1"), "v2")
    assert sorted(crane.run("ls", repository.location).split()) == ["v1", "v2"]
    crane.run("delete", repository.at(layout.digest))
    assert repository.digest_of("v1") is None
    assert repository.digest_of("v2") is None


def test_a_push_without_an_account_is_refused(
    repository: Repository, home: Path, tmp_path: Path
) -> None:
    """Nothing is stored."""
    crane = Client("crane", home)
    layout = write_layout(tmp_path / "layout", repository.name)
    assert is_refusal(crane.refused("push", layout.path, repository.at("v1")))
    assert repository.digest_of("v1") is None


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ],
)
def test_a_foreign_layer_that_was_pushed_on_purpose_is_kept(
    crane: Client, repository: Repository, tmp_path: Path, media_type: str
) -> None:
    """For a network of its own."""
    image = make_image(repository.name)
    document = json.loads(image.manifest.content)
    document["layers"][0]["mediaType"] = media_type
    manifest = Blob(OCI_MANIFEST, to_json(document))
    write_blobs(tmp_path / "layout", [*image.blobs, manifest], top=manifest)
    layer = f"blobs/{image.layers[0].digest}"

    options = ("--allow-nondistributable-artifacts", tmp_path / "layout")
    crane.run("push", *options, repository.at("v1"))
    assert repository.request("GET", layer).content == image.layers[0].content
    if repository.registry.is_ours:
        assert repository.request("DELETE", layer).status_code == 409
