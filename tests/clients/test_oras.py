"""oras, the command line: artifacts of any kind, attached and discovered."""

import json
from pathlib import Path

import pytest
from tests.clients.client import Client, is_refusal
from tests.clients.images import write_multi_platform_layout
from tests.support.registry import Registry, Repository

pytestmark = pytest.mark.clients

PLAIN = "--plain-http"
KIND = "application/vnd.example.thing"


@pytest.fixture
def oras(home: Path, registry: Registry) -> Client:
    """Give oras, logged in, in a directory with a file to push."""
    (home / "thing.txt").write_text("a thing\n")
    (home / "bill.json").write_text('{"parts": []}\n')
    client = Client("oras", home)
    options = (PLAIN, "--username", registry.username, "--password-stdin")
    client.run("login", *options, registry.address, stdin=registry.password)
    return client


def push(oras: Client, repository: Repository, tag: str = "v1") -> str:
    """Push the file as an artifact; give its digest."""
    oras.run("push", PLAIN, f"--artifact-type={KIND}", repository.at(tag), "thing.txt:text/plain")
    return oras.run("resolve", PLAIN, repository.at(tag)).strip()


def discovered(oras: Client, name: str) -> list[dict[str, object]]:
    """Give what oras finds attached to a manifest."""
    found = json.loads(oras.run("discover", PLAIN, "--format=json", name))
    referrers: list[dict[str, object]] = found.get("referrers") or found.get("manifests") or []
    return referrers


def test_a_pushed_file_is_pulled_back(oras: Client, repository: Repository, tmp_path: Path) -> None:
    """An artifact is its files, its type and nothing else."""
    digest = push(oras, repository)
    assert repository.digest_of("v1") == digest
    assert repository.manifest("v1")["artifactType"] == KIND
    oras.run("pull", PLAIN, "--output", tmp_path / "out", repository.at("v1"))
    assert (tmp_path / "out" / "thing.txt").read_text() == "a thing\n"


def test_what_is_attached_is_discovered(oras: Client, repository: Repository) -> None:
    """An attached artifact is listed among the referrers of its subject."""
    digest = push(oras, repository)
    bill = "application/vnd.example.bill"
    attach = ("attach", PLAIN, f"--artifact-type={bill}", repository.at("v1"))
    oras.run(*attach, "bill.json:application/json")
    (found,) = discovered(oras, repository.at("v1"))
    assert found["artifactType"] == bill
    if repository.registry.is_ours:
        assert [each["artifactType"] for each in repository.referrers(digest)] == [bill]
        fallback = digest.replace(":", "-")
        assert repository.digest_of(fallback) is None


def test_referrers_are_copied_with_their_subject(oras: Client, repository: Repository) -> None:
    """`cp --recursive` takes along what is attached."""
    push(oras, repository)
    attach = ("attach", PLAIN, f"--artifact-type={KIND}", repository.at("v1"))
    oras.run(*attach, "bill.json:application/json")
    other = repository.registry.new_repository("copied")
    plain = ("--from-plain-http", "--to-plain-http", "--recursive")
    oras.run("cp", *plain, repository.at("v1"), other.at("v1"))
    assert other.digest_of("v1") == repository.digest_of("v1")
    assert len(discovered(oras, other.at("v1"))) == 1


def test_a_layout_with_an_index_is_copied_in_and_out(
    oras: Client, repository: Repository, tmp_path: Path
) -> None:
    """From a layout to the registry and to another layout, the digest stays the same."""
    layout = write_multi_platform_layout(tmp_path / "from", repository.name)
    source = ("--from-oci-layout", f"{layout.path}:latest")
    oras.run("cp", "--to-plain-http", *source, repository.at("multi"))
    assert repository.digest_of("multi") == layout.digest
    target = ("--to-oci-layout", repository.at("multi"), f"{tmp_path / 'to'}:latest")
    oras.run("cp", "--from-plain-http", *target)
    index = json.loads((tmp_path / "to" / "index.json").read_text())
    assert layout.digest in [manifest["digest"] for manifest in index["manifests"]]


def test_tags_are_added_and_listed(oras: Client, repository: Repository) -> None:
    """One manifest gets several tags in one go."""
    push(oras, repository)
    oras.run("tag", PLAIN, repository.at("v1"), "v2", "v3")
    assert sorted(oras.run("repo", "tags", PLAIN, repository.location).split()) == [
        "v1",
        "v2",
        "v3",
    ]


def test_a_blob_is_pushed_fetched_and_deleted(
    oras: Client, repository: Repository, tmp_path: Path
) -> None:
    """Blobs can be handled one by one."""
    pushed = json.loads(
        oras.run("blob", "push", PLAIN, "--descriptor", repository.location, "thing.txt")
    )
    name = repository.at(pushed["digest"])
    oras.run("blob", "fetch", PLAIN, "--output", tmp_path / "blob", name)
    assert (tmp_path / "blob").read_text() == "a thing\n"
    oras.run("blob", "delete", PLAIN, "--force", name)
    oras.refused("blob", "fetch", PLAIN, "--output", tmp_path / "again", name)


def test_a_manifest_is_deleted(oras: Client, repository: Repository) -> None:
    """A deleted manifest is gone under its tag."""
    push(oras, repository)
    oras.run("manifest", "delete", PLAIN, "--force", repository.at("v1"))
    assert "not found" in oras.refused("resolve", PLAIN, repository.at("v1"))


def test_a_push_after_logout_is_refused(oras: Client, repository: Repository) -> None:
    """Without an account nothing is stored."""
    oras.run("logout", repository.registry.address)
    output = oras.refused("push", PLAIN, repository.at("v1"), "thing.txt:text/plain")
    assert is_refusal(output)
    assert repository.digest_of("v1") is None
