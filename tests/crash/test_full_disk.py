"""A full disk stops pushes, says so, and harms nothing that was there."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crash.disks import SmallDisk, small_disk
from tests.crash.http import Answer, Http
from tests.crash.ledger import digest_of
from tests.crash.load import MANIFEST, manifest_of
from tests.crash.test_kill import check, connection
from tests.support.processes import wait_until
from tests.support.server import RunningServer

from dtr.collect.check import Severity
from dtr.server.datadir import MINIMUM_FREE_BYTES

ENVIRONMENT = {
    "DTR_COLLECT__INTERVAL_SECONDS": "0.2",
    "DTR_COLLECT__GRACE_SECONDS": "1",
    "DTR_LOG__ACCESS": "false",
}
REPOSITORY = "/v2/admin/full"
WAYS = ("post", "put", "patch")

pytestmark = [pytest.mark.crash, pytest.mark.server]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Give a disk of 192 MiB below the directory that a server uses."""
    with small_disk(tmp_path / "disk", 192) as disk:
        (disk.path / "data").mkdir(mode=0o700)
        (tmp_path / "data").symlink_to(disk.path / "data")
        yield disk


@pytest.fixture
def server(disk: SmallDisk, tmp_path: Path) -> Iterator[RunningServer]:
    """Give a server whose data, and nothing else, are on that disk."""
    server = RunningServer(tmp_path, options=("--workers", "2"), environment=ENVIRONMENT)
    yield server
    server.kill()


@pytest.fixture
def http(server: RunningServer) -> Iterator[Http]:
    """Give a connection to it, once it is started."""
    with connection(server) as http:
        yield http


def push_blob(http: Http, content: bytes, way: str) -> Answer:
    """Push a blob; return the answer that ended it, good or bad."""
    digest = digest_of(content)
    if way == "post":
        return http.send("POST", f"{REPOSITORY}/blobs/uploads/?digest={digest}", content)
    answer = http.send("POST", f"{REPOSITORY}/blobs/uploads/", b"")
    if answer.status != 202:
        return answer
    location = answer.headers["location"]
    if way == "patch":
        answer = http.send("PATCH", location, content)
        return answer if answer.status != 202 else http.send("PUT", f"{location}?digest={digest}")
    return http.send("PUT", f"{location}?digest={digest}", content)


def push_image(http: Http, tag: str, content: bytes, way: str) -> Answer:
    """Push a layer and a manifest that needs it."""
    for blob in (b"{}", content):
        answer = push_blob(http, blob, way)
        if answer.status != 201:
            return answer
    payload = manifest_of(b"{}", [content], tag)
    return http.send("PUT", f"{REPOSITORY}/manifests/{tag}", payload, {"Content-Type": MANIFEST})


def assert_says_full(answer: Answer) -> None:
    """Check the envelope of the specification, with a code that clients show."""
    assert answer.status in {503, 507}, str(answer)
    assert answer.code == "UNAVAILABLE", str(answer)


def assert_reads_back(http: Http, images: dict[str, bytes]) -> None:
    """Everything that was acknowledged is there, whole."""
    for tag, content in images.items():
        manifest = http.send("GET", f"{REPOSITORY}/manifests/{tag}")
        assert manifest.status == 200, f"{tag}: {manifest}"
        blob = http.send("GET", f"{REPOSITORY}/blobs/{digest_of(content)}")
        assert blob.status == 200, f"{tag}: {blob.status}"
        assert blob.body == content, tag


def assert_answers_everything(http: Http) -> None:
    """Whatever only reads is answered as ever, by routes that nobody has asked before, too."""
    for path in (
        "/v2/",
        "/v2/_catalog",
        f"{REPOSITORY}/tags/list",
        f"{REPOSITORY}/referrers/sha256:{'0' * 64}",
        "/_ping",
        "/metrics",
        "/",
    ):
        assert http.send("GET", path).status == 200, path
    for path in ("/nowhere", f"{REPOSITORY}/manifests/none", "/v2/admin/none/tags/list"):
        for method in ("GET", "HEAD", "DELETE"):
            assert http.send(method, path).status in {404, 405}, path
    assert http.send("GET", "/health").status in {200, 503}


def fill_by_pushing(http: Http, images: dict[str, bytes], generator: random.Random) -> list[bytes]:
    """Push until the disk has refused every way of pushing; return what was refused."""
    refused = []
    for number in range(200):
        way = WAYS[number % 3]
        content = generator.randbytes(4 << 20)
        answer = push_image(http, f"t{number}", content, way)
        if answer.status == 201:
            images[f"t{number}"] = content
        else:
            assert_says_full(answer)
            refused.append(content)
        if len(refused) > 9:
            return refused
    raise AssertionError("the disk never became full")


@pytest.mark.parametrize("remedy", ["delete", "grow"])
def test_a_full_disk_harms_nothing(
    server: RunningServer, disk: SmallDisk, http: Http, remedy: str
) -> None:
    """Pushes are refused clearly, pulls go on, and room makes it whole without a restart."""
    server.start()
    generator = random.Random(remedy)
    images: dict[str, bytes] = {}
    refused = fill_by_pushing(http, images, generator)
    assert len(images) > 10
    assert_reads_back(http, images)
    assert disk.free_bytes > MINIMUM_FREE_BYTES

    disk.fill()  # to the last block: not even the metadata can grow
    for way in WAYS:
        assert_says_full(push_image(http, "more", generator.randbytes(1 << 20), way))
    for _ in range(4):
        with connection(server) as other:
            assert_answers_everything(other)
            assert_reads_back(other, images)
    for content in refused:
        assert http.send("GET", f"{REPOSITORY}/blobs/{digest_of(content)}").status == 404
    disk.empty()

    if remedy == "grow":
        disk.resize(256)
    else:
        for tag in [tag for number, tag in enumerate(images) if number % 2]:
            digest = http.send("HEAD", f"{REPOSITORY}/manifests/{tag}").headers[
                "docker-content-digest"
            ]
            answer = http.send("DELETE", f"{REPOSITORY}/manifests/{digest}")
            assert answer.status == 202, f"{tag}: {answer}"
            del images[tag]
        wait_until(lambda: disk.free_bytes > 120 << 20, "collection made room", seconds=30)
    for number, way in enumerate(WAYS):
        content = generator.randbytes(4 << 20)
        answer = push_image(http, f"after{number}", content, way)
        assert answer.status == 201, str(answer)
        images[f"after{number}"] = content
    assert_reads_back(http, images)
    findings = asyncio.run(check(server.data_dir))
    assert [f for f in findings if f.severity is not Severity.GARBAGE] == []
    assert server.stop() == 0


def test_one_push_that_does_not_fit_gives_its_room_back(
    server: RunningServer, disk: SmallDisk, http: Http
) -> None:
    """A push that is larger than the disk leaves the room to those that fit."""
    server.start()
    generator = random.Random(1)
    free = disk.free_bytes
    for way in WAYS:
        assert_says_full(push_blob(http, generator.randbytes(disk.free_bytes + (4 << 20)), way))
        wait_until(lambda: disk.free_bytes > free - (8 << 20), f"room after {way}", seconds=5)
    for way in WAYS:
        assert push_blob(http, generator.randbytes(10 << 20), way).status == 201


def test_uploads_leave_the_room_that_deletes_and_starts_need(
    server: RunningServer, disk: SmallDisk, http: Http
) -> None:
    """However small the pushes are, they are refused before nothing can be deleted any more."""
    server.start()
    generator = random.Random(2)
    images: dict[str, bytes] = {}
    fill_by_pushing(http, images, generator)
    refused = 0
    while refused < 20:
        refused += push_blob(http, generator.randbytes(50_000), "post").status != 201
    server.stop()
    server.start()
    http.close()
    tag = next(iter(images))
    head = http.send("HEAD", f"{REPOSITORY}/manifests/{tag}")
    digest = head.headers["docker-content-digest"]
    assert http.send("DELETE", f"{REPOSITORY}/manifests/{digest}").status == 202
    free = disk.free_bytes
    wait_until(lambda: disk.free_bytes > free + (3 << 20), "collection made room", seconds=30)
    assert push_blob(http, generator.randbytes(1 << 20), "put").status == 201


def test_a_start_without_room_for_pushes_says_so(
    server: RunningServer, disk: SmallDisk, http: Http
) -> None:
    """It serves pulls; a refused first push leaves no repository behind."""
    server.start()
    server.stop()
    disk.fill(leave_bytes=72 << 20)
    server.start()
    http.close()
    assert "every push is refused until there is more room" in server.log.read_text()
    for way in WAYS:
        assert_says_full(push_blob(http, b"small", way))
    assert http.send("GET", "/v2/_catalog").body == b'{"repositories":[]}'
    disk.empty()
    assert push_blob(http, b"small", "put").status == 201


def test_a_first_start_without_room_for_pushes_says_what_is_missing(
    server: RunningServer, disk: SmallDisk
) -> None:
    """It has to write something into the storage, to know it again."""
    disk.fill(leave_bytes=72 << 20)
    with pytest.raises(RuntimeError, match="MiB free, of which 80 MiB are kept"):
        server.start()
    disk.empty()
    server.start()


def test_a_start_on_a_full_disk_says_so(server: RunningServer, disk: SmallDisk) -> None:
    """One sentence of what is the matter and one of what to do, and a status that is not 0."""
    disk.fill(leave_bytes=1 << 20)
    with pytest.raises(RuntimeError):
        server.start()
    said = server.log.read_text()
    assert "free" in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 2
    disk.empty()
    server.start()
