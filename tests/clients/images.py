"""Small images made from nothing: the same bytes on every run, no network, no builder.

An image's layers are a busybox root file system (Debian's busybox-static) and as many further
layers with one text file each as asked for. Images of different `mark` have no layer in common:
some clients remember per machine, not per home, which compressed form of a layer a registry has,
and would put another client's form in the place of ours.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import requires

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CREATED = "2020-01-01T00:00:00Z"
APPLETS = ("sh", "cat", "echo", "ls", "true")
PLATFORMS = ("amd64", "arm64")

Entry = tuple[tarfile.TarInfo, bytes]


@dataclass(frozen=True)
class Blob:
    """Bytes with the media type that descriptors give them."""

    media_type: str
    content: bytes

    @property
    def digest(self) -> str:
        """The sha256 digest."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"

    @property
    def descriptor(self) -> dict[str, object]:
        """The OCI descriptor."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.content)}


@dataclass(frozen=True)
class Image:
    """One platform's image: uncompressed layers, and the blobs that a registry stores."""

    architecture: str
    tars: tuple[bytes, ...]
    layers: tuple[Blob, ...]
    config: Blob
    manifest: Blob

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return self.manifest.digest

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Everything that the manifest refers to, then the manifest."""
        return (*self.layers, self.config, self.manifest)


@dataclass(frozen=True)
class Layout:
    """An OCI image layout on disk whose index.json names one manifest or index as `latest`."""

    path: Path
    digest: str
    images: tuple[Image, ...]

    @property
    def source(self) -> str:
        """The layout as containers/image programs name it."""
        return f"oci:{self.path}:latest"


def make_image(mark: str, *, architecture: str = "amd64", layers: int = 2) -> Image:
    """Make an image with a layer of busybox and `layers - 1` text files on top of it."""
    marks = [f"{mark} {architecture} {number}\n" for number in range(1, layers)]
    tars = (
        busybox_tar(mark),
        *(tar_of([file_entry(f"mark-{i}", text.encode())]) for i, text in enumerate(marks, 1)),
    )
    compressed = tuple(compressed_layer(tar) for tar in tars)
    config = Blob(OCI_CONFIG, to_json(image_config(mark, architecture, tars)))
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor,
        "layers": [layer.descriptor for layer in compressed],
    }
    return Image(architecture, tars, compressed, config, Blob(OCI_MANIFEST, to_json(manifest)))


def compressed_layer(tar: bytes) -> Blob:
    """Give the layer that a registry stores for a tar."""
    return Blob(OCI_LAYER, gzip.compress(tar, 1, mtime=0))


def image_config(mark: str, architecture: str, tars: Sequence[bytes]) -> dict[str, object]:
    """Give the image configuration for these uncompressed layers."""
    return {
        "architecture": architecture,
        "os": "linux",
        "created": CREATED,
        "config": {"Cmd": ["/bin/sh"], "Labels": {"mark": mark}},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars],
        },
        "history": [{"created": CREATED, "created_by": "tests"} for _ in tars],
    }


def make_index(images: Sequence[Image]) -> Blob:
    """Make the index of one image per platform."""
    return Blob(
        OCI_INDEX,
        to_json(
            {
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "manifests": [
                    {
                        **image.manifest.descriptor,
                        "platform": {"os": "linux", "architecture": image.architecture},
                    }
                    for image in images
                ],
            }
        ),
    )


def write_layout(directory: Path, mark: str, *, layers: int = 2) -> Layout:
    """Write an OCI layout with one image."""
    image = make_image(mark, layers=layers)
    write_blobs(directory, image.blobs, top=image.manifest)
    return Layout(directory, image.digest, (image,))


def write_multi_platform_layout(directory: Path, mark: str) -> Layout:
    """Write an OCI layout with an index of one image per platform."""
    images = tuple(make_image(mark, architecture=each) for each in PLATFORMS)
    index = make_index(images)
    blobs = [blob for image in images for blob in image.blobs]
    write_blobs(directory, [*blobs, index], top=index)
    return Layout(directory, index.digest, images)


def write_blobs(directory: Path, blobs: Sequence[Blob], *, top: Blob) -> None:
    """Write the files of an OCI layout; `top` becomes its `latest`."""
    store = directory / "blobs" / "sha256"
    store.mkdir(parents=True)
    for blob in blobs:
        (store / blob.digest.partition(":")[2]).write_bytes(blob.content)
    name = {"org.opencontainers.image.ref.name": "latest"}
    index = {"schemaVersion": 2, "manifests": [{**top.descriptor, "annotations": name}]}
    (directory / "index.json").write_bytes(to_json(index))
    (directory / "oci-layout").write_bytes(to_json({"imageLayoutVersion": "1.0.0"}))


def write_oci_archive(file: Path, layout: Layout) -> None:
    """Write a layout as one tar file, which `ctr images import` and `podman load` read."""
    paths = sorted(path for path in layout.path.rglob("*") if path.is_file())
    entries = [file_entry(str(path.relative_to(layout.path)), path.read_bytes()) for path in paths]
    file.write_bytes(tar_of(entries))


def write_docker_archive(file: Path, image: Image, name: str) -> None:
    """Write an image as `docker save` would, for `docker load` to bring in under this name."""
    config_name = f"{image.config.digest.partition(':')[2]}.json"
    layer_names = [f"{number}/layer.tar" for number in range(len(image.tars))]
    listing = [{"Config": config_name, "RepoTags": [name], "Layers": layer_names}]
    entries = [file_entry(config_name, image.config.content)]
    entries += [file_entry(path, tar) for path, tar in zip(layer_names, image.tars, strict=True)]
    entries.append(file_entry("manifest.json", to_json(listing)))
    file.write_bytes(tar_of(entries))


def busybox_tar(mark: str) -> bytes:
    """Give a root file system that can run a shell, as a tar."""
    program = requires("busybox").read_bytes()
    entries = [entry("bin", kind=tarfile.DIRTYPE, mode=0o755)]
    entries.append(file_entry("bin/busybox", program, mode=0o755))
    entries += [link_entry(f"bin/{applet}", "busybox") for applet in APPLETS]
    entries.append(entry("etc", kind=tarfile.DIRTYPE, mode=0o755))
    entries.append(file_entry("etc/issue", f"{mark}\n".encode()))
    entries.append(file_entry("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n"))
    return tar_of(entries)


def entry(name: str, *, kind: bytes, mode: int) -> Entry:
    """Make a tar entry without content, owned by root and as old as time."""
    header = tarfile.TarInfo(name)
    header.type = kind
    header.mode = mode
    return header, b""


def file_entry(name: str, content: bytes, *, mode: int = 0o644) -> Entry:
    """Make a tar entry for a regular file."""
    header, _ = entry(name, kind=tarfile.REGTYPE, mode=mode)
    header.size = len(content)
    return header, content


def link_entry(name: str, target: str) -> Entry:
    """Make a tar entry for a symbolic link."""
    header, _ = entry(name, kind=tarfile.SYMTYPE, mode=0o777)
    header.linkname = target
    return header, b""


def tar_of(entries: Sequence[Entry]) -> bytes:
    """Give the tar with these entries."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for header, content in entries:
            tar.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def to_json(value: object) -> bytes:
    """Serialize always the same way."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
