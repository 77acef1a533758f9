"""`dtr import` from real registries, by their directory and by their API."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.clients.images import write_layout, write_multi_platform_layout
from tests.support.registry import MANIFEST_TYPES, USER
from tests.support.server import ADMIN, ADMIN_PASSWORD, RunningServer
from tests.transfer.conftest import Distribution

pytestmark = pytest.mark.clients

Servers = Callable[..., RunningServer]
EMPTY = f"sha256:{hashlib.sha256().hexdigest()}"
AS_ADMIN = (ADMIN, ADMIN_PASSWORD)


def import_into(server: RunningServer, place: str | Path, *options: str | Path) -> Any:
    """Import everything and return the report."""
    words = ("import", "--from-distribution", place, "--json", *options)
    return json.loads(server.run(*map(str, words)))


def digest_at(url: str, name: str, auth: tuple[str, str]) -> str:
    """Return the digest that a registry names for `repository:tag`."""
    repository, _, tag = name.rpartition(":")
    headers = {"accept": ", ".join(MANIFEST_TYPES)}
    answer = httpx.head(f"{url}/v2/{repository}/manifests/{tag}", headers=headers, auth=auth)
    assert answer.status_code == 200, name
    return str(answer.headers["docker-content-digest"])


@pytest.fixture
def filled(distribution: Distribution, tmp_path: Path) -> dict[str, str]:
    """Give digests by `name:tag` of what skopeo pushed."""
    single = write_layout(tmp_path / "single", "import", layers=4)
    multi = write_multi_platform_layout(tmp_path / "multi", "import")
    distribution.push(single.source, "library/single:v1")
    distribution.push(single.source, "alice/deep/er/single:latest")
    distribution.push(single.source, "short:v2", "--format", "v2s2")
    distribution.push(multi.source, "team/multi:all", "--all")
    for number in range(5):
        distribution.push(single.source, f"team/tags:{number}")
    names = ["library/single:v1", "alice/deep/er/single:latest", "short:v2", "team/multi:all"]
    names += [f"team/tags:{number}" for number in range(5)]
    found = {name: digest_at(distribution.url, name, USER) for name in names}
    assert found["library/single:v1"] == single.digest
    assert found["team/multi:all"] == multi.digest
    return found


def check_pulls(
    distribution: Distribution, server: RunningServer, filled: dict[str, str], place: Path
) -> None:
    """Compare all digests, and copy whole images out with skopeo, which verifies every byte."""
    for name, digest in filled.items():
        assert digest_at(server.url, name, AS_ADMIN) == digest
    for number, name in enumerate(("short:v2", "team/multi:all", "alice/deep/er/single:latest")):
        distribution.skopeo.run(
            *("copy", "--all", "--src-tls-verify=false", "--src-creds", ":".join(AS_ADMIN)),
            f"docker://{server.address}/{name}",
            f"dir:{place / str(number)}",
        )


def test_a_directory_is_imported_by_links(
    distribution: Distribution, filled: dict[str, str], server: Servers, tmp_path: Path
) -> None:
    """Every tag has its digest, no byte was copied, and a second run finds everything here."""
    new = server("new")
    done = import_into(new, distribution.data)
    assert done["problems"] == []
    assert (done["repositories"], done["tags"]) == (5, len(filled))
    assert done["blobs_linked"] == done["blobs"] > 0
    check_pulls(distribution, new, filled, tmp_path)
    assert "damaged" not in new.run("fsck", "--verify")
    again = import_into(new, distribution.data)
    assert (again["tags"], again["manifests"], again["blobs"]) == (0, 0, 0)
    assert again["tags_present"] == len(filled)


def test_a_directory_is_imported_by_copies(
    distribution: Distribution, filled: dict[str, str], server: Servers, tmp_path: Path
) -> None:
    """Where links are not wanted or not possible."""
    new = server("new")
    done = import_into(new, distribution.data, "--no-link")
    assert (done["problems"], done["blobs_linked"]) == ([], 0)
    check_pulls(distribution, new, filled, tmp_path)


def test_a_running_registry_is_imported(
    distribution: Distribution, filled: dict[str, str], server: Servers, tmp_path: Path
) -> None:
    """By its catalog, with its password; and again, which brings nothing."""
    new = server("new")
    password = tmp_path / "password"
    password.write_text(f"{USER[1]}\n")
    options = ("--username", USER[0], "--password-file", password)
    planned = import_into(new, distribution.url, *options, "--dry-run")
    done = import_into(new, distribution.url, *options)
    assert done["problems"] == []
    assert {**done, "dry_run": True} == planned
    assert (done["repositories"], done["tags"]) == (5, len(filled))
    check_pulls(distribution, new, filled, tmp_path)
    again = import_into(new, distribution.url, *options)
    assert (again["tags"], again["manifests"], again["blobs"]) == (0, 0, 0)


def test_a_repository_with_blobs_only_is_left_out(
    distribution: Distribution, filled: dict[str, str], server: Servers, tmp_path: Path
) -> None:
    """A docker-registry has it in its catalog and does not know its tags; that is no error."""
    start = httpx.post(f"{distribution.url}/v2/only/blobs/blobs/uploads/", auth=USER)
    where = httpx.URL(start.headers["location"]).copy_merge_params({"digest": EMPTY})
    assert httpx.put(where, content=b"", auth=USER).status_code == 201
    catalog = httpx.get(f"{distribution.url}/v2/_catalog", auth=USER).json()
    assert "only/blobs" in catalog["repositories"]
    new = server("new")
    password = tmp_path / "password"
    password.write_text(f"{USER[1]}\n")
    options = ("--username", USER[0], "--password-file", password)
    done = import_into(new, distribution.url, *options)
    assert (done["problems"], done["repositories"]) == ([], 5)
    assert "only/blobs" not in new.run("repo", "list")


def test_a_wrong_password_is_said(
    distribution: Distribution, server: Servers, tmp_path: Path
) -> None:
    """In a sentence, and without the password."""
    new = server("new")
    password = tmp_path / "password"
    password.write_text("a wrong password\n")
    with pytest.raises(RuntimeError, match="answers 401") as failed:
        import_into(new, distribution.url, "--username", "alice", "--password-file", password)
    assert "a wrong password" not in str(failed.value)
    with pytest.raises(RuntimeError, match="answers 401"):
        import_into(new, distribution.url)


def test_what_was_collected_half_is_said(
    distribution: Distribution, filled: dict[str, str], server: Servers
) -> None:
    """A blob that is gone takes the images with it that need it, and nothing else."""
    blobs = distribution.data / "docker" / "registry" / "v2" / "blobs" / "sha256"
    largest = max(blobs.glob("*/*/data"), key=lambda path: path.stat().st_size)
    largest.unlink()
    new = server("new")
    with pytest.raises(RuntimeError, match="Not imported") as failed:
        new.run("import", "--from-distribution", str(distribution.data))
    assert largest.parent.name in str(failed.value)
