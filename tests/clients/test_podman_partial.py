"""podman's partial pulls: of a layer in zstd:chunked, only the files that changed are fetched."""

import re
import secrets
import tarfile
from pathlib import Path

import pytest
from tests.clients.client import Client, ClientFailedError
from tests.clients.containers import login, private_client
from tests.support.processes import wait_until
from tests.support.registry import Registry, Repository

pytestmark = pytest.mark.clients

PLAIN = "--tls-verify=false"
FILES = 40
FILE_BYTES = 200_000


def test_a_second_pull_fetches_only_the_files_that_changed(
    home: Path, registry: Registry, repository: Repository
) -> None:
    """Two files of forty, in several ranges of one request; the image is the one pushed."""
    if registry.log is None or not registry.is_ours:
        pytest.skip("only our own server's log says how many bytes were sent")
    files = {f"file-{number}": secrets.token_bytes(FILE_BYTES) for number in range(FILES)}
    layers = {}
    for directory in ("pushing", "pulling"):
        (home / directory).mkdir()
    with (
        private_client("podman", home / "pushing", driver="overlay") as pushing,
        private_client("podman", home / "pulling", driver="overlay") as pulling,
    ):
        for podman in (pushing, pulling):
            skip_without_overlay(podman)
            login(podman, registry)
        for tag in ("v1", "v2"):
            name = repository.at(tag)
            pushing.run("import", write_tar(home / f"{tag}.tar", files), name)
            pushing.run("push", PLAIN, "--compression-format=zstd:chunked", name)
            layers[tag] = layer_of(repository, tag)
            files |= {f"file-{number}": secrets.token_bytes(FILE_BYTES) for number in (7, 33)}
            if tag == "v1":
                second = dict(files)
        pulling.run("pull", PLAIN, repository.at("v1"))
        pulling.run("pull", PLAIN, repository.at("v2"))
        root = Path(pulling.run("image", "mount", repository.at("v2")).strip())
        assert {path.name: path.read_bytes() for path in root.iterdir()} == second
        pulling.run("image", "unmount", repository.at("v2"))
    log = registry.log
    wait_until(lambda: sent(log, layers["v2"]) >= 2 * FILE_BYTES, "the log has the second pull")
    assert sent(log, layers["v2"]) < 3 * FILE_BYTES
    assert sent(log, layers["v1"]) >= FILES * FILE_BYTES


def skip_without_overlay(podman: Client) -> None:
    """Skip where the kernel lets podman mount no overlay: its other drivers pull layers whole."""
    try:
        podman.run("info")
    except ClientFailedError as error:
        if "overlay" in str(error):
            pytest.skip("podman cannot use overlay mounts here")
        raise


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """Write files into an archive."""
    content = path.with_suffix(".file")
    with tarfile.open(path, "w") as archive:
        for name, each in files.items():
            content.write_bytes(each)
            archive.add(content, name)
    return path


def layer_of(repository: Repository, tag: str) -> str:
    """Return the digest of an image's only layer."""
    layers = repository.manifest(tag)["layers"]
    assert isinstance(layers, list)
    [layer] = layers
    return str(layer["digest"])


def sent(log: Path, digest: str) -> int:
    """Return how many bytes of a blob were sent, by the lines about requests that ended."""
    lines = re.findall(rf"GET \S+/blobs/{digest} \d+ (\d+)", log.read_text(errors="replace"))
    return sum(map(int, lines))
