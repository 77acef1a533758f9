"""oras, the Python library: artifacts pushed and pulled by a program."""

from pathlib import Path

import pytest
from oras.client import OrasClient
from tests.support.registry import Registry, Repository

pytestmark = pytest.mark.clients


@pytest.fixture(params=["token", "basic"])
def oras(
    registry: Registry, home: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> OrasClient:
    """Give the library's client, logged in, with either of its ways to show who it is."""
    if request.param == "token" and not registry.is_ours:
        pytest.skip("only a DTR server is known to give tokens")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DOCKER_CONFIG", str(home / ".docker"))
    monkeypatch.chdir(home)
    client = OrasClient(hostname=registry.address, insecure=True, auth_backend=request.param)
    client.login(
        hostname=registry.address,
        username=registry.username,
        password=registry.password,
        config_path=str(home / ".docker" / "config.json"),
    )
    return client


def push(oras: OrasClient, repository: Repository, tag: str) -> None:
    """Push a file of the current directory."""
    Path("thing.txt").write_text("a thing\n")
    answer = oras.push(
        target=repository.at(tag),
        files=["thing.txt:text/plain"],
        manifest_annotations={"colour": "green"},
    )
    assert answer.status_code == 201


def test_a_pushed_file_is_pulled_back(
    oras: OrasClient, repository: Repository, tmp_path: Path
) -> None:
    """What the library pushed it pulls."""
    push(oras, repository, "v1")
    assert repository.manifest("v1")["annotations"] == {"colour": "green"}
    (pulled,) = oras.pull(target=repository.at("v1"), outdir=str(tmp_path / "out"))
    assert Path(pulled).read_text() == "a thing\n"


def test_tags_are_listed_and_deleted(oras: OrasClient, repository: Repository) -> None:
    """The library sees the tags that it pushed, and no longer the one that it deleted."""
    push(oras, repository, "v1")
    push(oras, repository, "v2")
    assert sorted(oras.get_tags(repository.location)) == ["v1", "v2"]
    assert oras.delete_tag(repository.location, "v1")
    assert repository.digest_of("v1") is None
