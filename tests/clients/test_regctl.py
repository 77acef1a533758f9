"""regctl: referrers, sha512, chunked uploads and the deletion of single tags."""

import json
import os
from pathlib import Path

import pytest
from tests.clients.client import Client, is_refusal
from tests.clients.images import Layout, write_layout, write_multi_platform_layout
from tests.support.registry import Registry, Repository

pytestmark = pytest.mark.clients

CHUNK = 64 * 1024


@pytest.fixture
def regctl(home: Path, registry: Registry) -> Client:
    """Give regctl, logged in."""
    client = Client("regctl", home)
    client.run("registry", "set", "--tls=disabled", "--skip-check", registry.address)
    options = ("--user", registry.username, "--pass-stdin")
    client.run("registry", "login", *options, registry.address, stdin=registry.password)
    return client


def pushed(regctl: Client, repository: Repository, tmp_path: Path) -> Layout:
    """Push a new image as `v1`."""
    layout = write_layout(tmp_path / "layout", repository.name)
    regctl.run("image", "copy", f"ocidir://{layout.path}:latest", repository.at("v1"))
    return layout


def test_a_layout_is_copied_in_and_out(
    regctl: Client, repository: Repository, tmp_path: Path
) -> None:
    """An index and its images keep their digests both ways."""
    layout = write_multi_platform_layout(tmp_path / "from", repository.name)
    regctl.run("image", "copy", f"ocidir://{layout.path}:latest", repository.at("multi"))
    assert repository.digest_of("multi") == layout.digest
    back = f"ocidir://{tmp_path / 'to'}:latest"
    regctl.run("image", "copy", repository.at("multi"), back)
    assert regctl.run("image", "digest", back).strip() == layout.digest


def test_a_tag_is_deleted_and_its_manifest_stays(
    regctl: Client, repository: Repository, tmp_path: Path
) -> None:
    """Deleting one tag leaves the other tags of the same manifest alone."""
    layout = pushed(regctl, repository, tmp_path)
    regctl.run("image", "copy", repository.at("v1"), repository.at("v2"))
    regctl.run("tag", "delete", repository.at("v1"))
    assert repository.digest_of("v1") is None
    assert regctl.run("tag", "ls", repository.location).split() == ["v2"]
    assert repository.digest_of(layout.digest) == layout.digest


def test_an_artifact_refers_to_an_image(
    regctl: Client, repository: Repository, tmp_path: Path
) -> None:
    """What is put with a subject is listed with it, by type."""
    layout = pushed(regctl, repository, tmp_path)
    for kind in ("application/vnd.example.bill", "application/vnd.example.scan"):
        regctl.run(
            *("artifact", "put", f"--artifact-type={kind}", "--subject", repository.at("v1")),
            stdin=f"a {kind}",
        )
    listing = ("artifact", "list", "--filter-artifact-type=application/vnd.example.scan")
    found = json.loads(regctl.run(*listing, "--format={{json .}}", repository.at("v1")))
    kinds = [descriptor["artifactType"] for descriptor in found["descriptors"]]
    assert kinds == ["application/vnd.example.scan"]
    if repository.registry.is_ours:
        assert len(repository.referrers(layout.digest)) == 2


def test_a_blob_goes_up_in_chunks(regctl: Client, repository: Repository, tmp_path: Path) -> None:
    """An upload of many small pieces comes back as one blob."""
    address = repository.registry.address
    chunks = (f"--blob-chunk={CHUNK}", f"--blob-max={CHUNK}")
    regctl.run("registry", "set", "--skip-check", *chunks, address)
    content = os.urandom(CHUNK * 5 // 2).hex()
    digest = regctl.run("blob", "put", repository.location, stdin=content).strip()
    assert regctl.run("blob", "get", repository.location, digest) == content


def test_an_image_with_sha512_digests_comes_back(
    regctl: Client, repository: Repository, tmp_path: Path
) -> None:
    """Content addressed by sha512 is stored and found under that digest."""
    if not repository.registry.is_ours:
        pytest.skip("the peer renames sha512 content to sha256")
    layout = write_layout(tmp_path / "layout", repository.name)
    other = f"ocidir://{layout.path}:sha512"
    source = f"ocidir://{layout.path}:latest"
    regctl.run("image", "mod", source, "--create", other, "--digest-algo=sha512")
    digest = regctl.run("image", "digest", other).strip()
    assert digest.startswith("sha512:")
    regctl.run("image", "copy", other, repository.at(digest))
    assert repository.digest_of(digest) == digest
    back = f"ocidir://{tmp_path / 'to'}"
    regctl.run("image", "copy", repository.at(digest), f"{back}@{digest}")
    assert json.loads(regctl.run("manifest", "get", f"{back}@{digest}", "--format=raw-body"))


def test_a_push_after_logout_is_refused(
    regctl: Client, repository: Repository, tmp_path: Path
) -> None:
    """Without an account nothing is stored."""
    layout = write_layout(tmp_path / "layout", repository.name)
    regctl.run("registry", "logout", repository.registry.address)
    source = f"ocidir://{layout.path}:latest"
    output = regctl.refused("image", "copy", source, repository.at("v1"))
    assert is_refusal(output)
    assert repository.digest_of("v1") is None
