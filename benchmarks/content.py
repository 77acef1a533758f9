"""What every contender is loaded with: the same bytes, made once per run."""

import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.failure import BenchmarkError
from benchmarks.server import Server
from benchmarks.wire import Connection, with_digest

APP = "admin/app"
TAGGED = "admin/tagged"
PUSHED = "admin/pushed"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYERS_PER_MANIFEST = 8
MEBIBYTE = 1024 * 1024
LOADERS = 8
STAMP_BYTES = 64
Item = TypeVar("Item")
Descriptor = Mapping[str, str | int]


@dataclass(frozen=True)
class Sizes:
    """How much is loaded and how long each row takes."""

    big_bytes: int = 1024 * MEBIBYTE
    small_blobs: int = 64
    mebibyte_blobs: int = 16
    manifests: int = 64
    tags: int = 10_000
    image_layers: int = 50
    image_pushes: int = 5
    big_pulls: int = 5
    dead_blobs: int = 10_000
    seconds: float = 10.0
    warm_seconds: float = 2.0
    settle_seconds: float = 5.0
    rounds: int = 3


QUICK = Sizes(
    big_bytes=8 * MEBIBYTE, small_blobs=8, mebibyte_blobs=2, manifests=8, tags=300,
    image_layers=5, image_pushes=1, big_pulls=2, dead_blobs=50,
    seconds=1.0, warm_seconds=0.0, settle_seconds=0.5, rounds=1,
)  # fmt: skip


@dataclass(frozen=True)
class Object:
    """Some bytes and their digest."""

    body: bytes
    digest: str

    @classmethod
    def of(cls, body: bytes) -> "Object":
        """Return the object of these bytes."""
        return cls(body, digest_of(body))


@dataclass(frozen=True)
class Fetch:
    """A path to GET and the body that must come back."""

    path: str
    digest: str
    size: int


class BigFile:
    """A large file whose last bytes are changed for each push, so that no push is a duplicate."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._prefix = hashlib.sha256()
        self._stamps = 0
        source = random.Random(1)
        with path.open("wb") as file:
            left = size - STAMP_BYTES
            while left:
                piece = source.randbytes(min(MEBIBYTE, left))
                self._prefix.update(piece)
                file.write(piece)
                left -= len(piece)
        self.digest = self.loaded_digest = self.stamp()

    def stamp(self) -> str:
        """Give the file new last bytes and return its new digest."""
        self._stamps += 1
        last = f"{time.time_ns()} {self._stamps}".encode().ljust(STAMP_BYTES)
        with self.path.open("r+b") as file:
            file.seek(self.size - STAMP_BYTES)
            file.write(last)
        whole = self._prefix.copy()
        whole.update(last)
        self.digest = f"sha256:{whole.hexdigest()}"
        return self.digest


class Content:
    """All that is loaded, by what needs it."""

    def __init__(self, sizes: Sizes, folder: Path) -> None:
        self.sizes = sizes
        source = random.Random(2)
        self.small = [Object.of(source.randbytes(1024)) for _ in range(sizes.small_blobs)]
        self.mebibytes = [
            Object.of(source.randbytes(MEBIBYTE)) for _ in range(sizes.mebibyte_blobs)
        ]
        self.config = Object.of(b"{}")
        self.manifests = [self._manifest(number) for number in range(sizes.manifests)]
        self.tags = [f"build-{number:06d}" for number in range(sizes.tags)]
        self._big_path = folder / "big"
        self._big: BigFile | None = None

    @property
    def big(self) -> BigFile:
        """The large file, made when first asked for."""
        if self._big is None:
            self._big = BigFile(self._big_path, self.sizes.big_bytes)
        return self._big

    def manifest_fetches(self, *, by_tag: bool) -> list[Fetch]:
        """Return the manifests, each under its own tag or digest."""
        return [
            Fetch(
                f"/v2/{APP}/manifests/{f'v{number}' if by_tag else manifest.digest}",
                manifest.digest,
                len(manifest.body),
            )
            for number, manifest in enumerate(self.manifests)
        ]

    def blob_fetches(self, blobs: Sequence[Object]) -> list[Fetch]:
        """Return the addresses of loaded blobs."""
        return [
            Fetch(f"/v2/{APP}/blobs/{blob.digest}", blob.digest, len(blob.body)) for blob in blobs
        ]

    def load(self, server: Server, needs: frozenset[str]) -> None:
        """Push what is needed of `app`, `mebibyte`, `big` and `tags` to one contender."""
        blobs = [self.config, *self.small]
        blobs += self.mebibytes if "mebibyte" in needs else []
        _in_parallel(server, blobs, lambda link, blob: push_blob(link, server, APP, blob))
        _in_parallel(
            server,
            list(enumerate(self.manifests)),
            lambda link, item: push_manifest(link, server, APP, f"v{item[0]}", item[1]),
        )
        if "big" in needs:
            push_file(server, APP, self.big)
        self._keep(server, needs)
        if "tags" in needs:
            self._load_tags(server)

    def _keep(self, server: Server, needs: frozenset[str]) -> None:
        """Push a manifest that refers to the other blobs, or collection could take them."""
        layers = [descriptor(LAYER_TYPE, blob.digest, len(blob.body)) for blob in self.small]
        if "mebibyte" in needs:
            layers += [descriptor(LAYER_TYPE, blob.digest, MEBIBYTE) for blob in self.mebibytes]
        if "big" in needs:
            layers.append(descriptor(LAYER_TYPE, self.big.loaded_digest, self.big.size))
        with Connection(server.address) as link:
            push_manifest(link, server, APP, "all", manifest_of(self.config, layers, "all"))

    def _load_tags(self, server: Server) -> None:
        blobs = [self.config, *self.small]
        _in_parallel(server, blobs, lambda link, blob: push_blob(link, server, TAGGED, blob))

        def tag(link: Connection, item: tuple[int, str]) -> None:
            manifest = self.manifests[item[0] % len(self.manifests)]
            push_manifest(link, server, TAGGED, item[1], manifest)

        _in_parallel(server, list(enumerate(self.tags)), tag)

    def _manifest(self, number: int) -> Object:
        count = len(self.small)
        blobs = [self.small[(number + step) % count] for step in range(LAYERS_PER_MANIFEST)]
        layers = [descriptor(LAYER_TYPE, blob.digest, len(blob.body)) for blob in blobs]
        return manifest_of(self.config, layers, str(number))


def manifest_of(config: Object, layers: Sequence[Descriptor], name: str) -> Object:
    """Return an image manifest of these blobs."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, config.digest, len(config.body)),
        "layers": list(layers),
        "annotations": {"org.opencontainers.image.ref.name": name},
    }
    return Object.of(json.dumps(manifest).encode())


def descriptor(media_type: str, digest: str, size: int) -> Descriptor:
    """Return what a manifest says of a blob."""
    return {"mediaType": media_type, "digest": digest, "size": size}


def push_blob(link: Connection, server: Server, repository: str, blob: Object) -> None:
    """Push a blob with POST and one PUT."""
    headers = server.headers(repository)
    begun = link.request("POST", f"/v2/{repository}/blobs/uploads/", headers)
    begun.expect(202, "begin an upload")
    sent = dict(headers) | {"Content-Type": "application/octet-stream"}
    target = with_digest(begun.location, blob.digest)
    link.request("PUT", target, sent, blob.body).expect(201, "put a blob")


def push_manifest(
    link: Connection, server: Server, repository: str, tag: str, manifest: Object
) -> None:
    """Push a manifest under a tag."""
    headers = dict(server.headers(repository)) | {"Content-Type": MANIFEST_TYPE}
    target = f"/v2/{repository}/manifests/{tag}"
    link.request("PUT", target, headers, manifest.body).expect(201, "put a manifest")


def push_file(server: Server, repository: str, file: BigFile) -> float:
    """Push a file with POST and one streamed PUT; return the seconds from first to last byte."""
    headers = dict(server.headers(repository))
    with Connection(server.address) as link:
        begin = time.perf_counter()
        begun = link.request("POST", f"/v2/{repository}/blobs/uploads/", headers)
        begun.expect(202, "begin an upload")
        sent = headers | {"Content-Type": "application/octet-stream"}
        target = with_digest(begun.location, file.digest)
        link.upload("PUT", target, sent, file.path).expect(201, "put a large blob")
        seconds = time.perf_counter() - begin
        found = link.request("HEAD", f"/v2/{repository}/blobs/{file.digest}", headers)
    found.expect(200, "head of what was pushed")
    if found.headers.get("content-length") != str(file.size):
        raise BenchmarkError(f"what was pushed has {found.headers.get('content-length')} bytes")
    return seconds


def check(server: Server, repository: str, fetches: Sequence[Fetch]) -> None:
    """GET each path once and compare its body with its digest.

    Raises:
        BenchmarkError: a status or a body is wrong.
    """
    headers = dict(server.headers(repository)) | {"Accept": MANIFEST_TYPE}
    with Connection(server.address) as link:
        for fetch in fetches:
            answer = link.request("GET", fetch.path, headers).expect(200, f"GET {fetch.path}")
            if digest_of(answer.body) != fetch.digest:
                raise BenchmarkError(f"GET {fetch.path}: the body has another digest")


def digest_of(body: bytes) -> str:
    """Return the sha256 digest of some bytes."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _in_parallel(
    server: Server, items: Sequence[Item], work: Callable[[Connection, Item], None]
) -> None:
    """Do `work` on all items over a few connections; the first failure is raised."""

    def share(start: int) -> None:
        with Connection(server.address) as link:
            for item in items[start::LOADERS]:
                work(link, item)

    with ThreadPoolExecutor(LOADERS) as pool:
        list(pool.map(share, range(LOADERS)))


def push_dead_blobs(server: Server, repository: str, count: int) -> list[Object]:
    """Push blobs that no manifest refers to, and return them."""
    blobs = [Object.of(f"dead {time.time_ns()} {number}".encode()) for number in range(count)]
    _in_parallel(server, blobs, lambda link, blob: push_blob(link, server, repository, blob))
    return blobs
