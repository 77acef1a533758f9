"""A docker-registry's data directory, written file by file, whole or damaged."""

import json
from dataclasses import dataclass
from pathlib import Path

from dtr.model.digest import Digest
from dtr.model.manifests import OCI_INDEX, OCI_MANIFEST

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True)
class Tree:
    """The directory `docker/registry/v2` below `root`."""

    root: Path

    @property
    def inside(self) -> Path:
        """Where blobs and repositories are."""
        return self.root / "docker" / "registry" / "v2"

    def blob_path(self, digest: Digest) -> Path:
        """Return the file with the bytes."""
        directory = self.inside / "blobs" / digest.algorithm / digest.encoded[:2]
        return directory / digest.encoded / "data"

    def layer_link(self, repository: str, digest: Digest) -> Path:
        """Return the link that lets a repository have a blob."""
        layers = self.inside / "repositories" / repository / "_layers"
        return layers / digest.algorithm / digest.encoded / "link"

    def revision_link(self, repository: str, digest: Digest) -> Path:
        """Return the link that lets a repository have a manifest."""
        revisions = self.inside / "repositories" / repository / "_manifests" / "revisions"
        return revisions / digest.algorithm / digest.encoded / "link"

    def tag_link(self, repository: str, tag: str) -> Path:
        """Return the link that a tag is."""
        tags = self.inside / "repositories" / repository / "_manifests" / "tags"
        return tags / tag / "current" / "link"

    def add_blob(self, repository: str, content: bytes) -> Digest:
        """Put a blob into a repository."""
        digest = Digest.of(content)
        write(self.blob_path(digest), content)
        write(self.layer_link(repository, digest), digest.encode())
        return digest

    def add_manifest(self, repository: str, payload: bytes, *tags: str) -> Digest:
        """Put a manifest into a repository."""
        digest = Digest.of(payload)
        write(self.blob_path(digest), payload)
        write(self.revision_link(repository, digest), digest.encode())
        for tag in tags:
            self.add_tag(repository, tag, digest)
        return digest

    def add_tag(self, repository: str, tag: str, digest: Digest) -> None:
        """Point a tag at a manifest."""
        write(self.tag_link(repository, tag), digest.encode())

    def add_image(
        self, repository: str, *tags: str, content: str = "layer", subject: Digest | None = None
    ) -> Digest:
        """Put an image with a config and one layer into a repository."""
        config = self.add_blob(repository, f'{{"of": "{content}"}}'.encode())
        layer = self.add_blob(repository, content.encode())
        return self.add_manifest(repository, image(config, layer, subject), *tags)


def image(config: Digest, layer: Digest, subject: Digest | None = None) -> bytes:
    """Return an image manifest."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [descriptor(LAYER_TYPE, layer)],
            **({"subject": descriptor(OCI_MANIFEST, subject)} if subject else {}),
        }
    ).encode()


def index(*manifests: Digest) -> bytes:
    """Return an index."""
    entries = [descriptor(OCI_MANIFEST, digest) for digest in manifests]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def descriptor(media_type: str, digest: Digest) -> dict[str, object]:
    """Return a descriptor that says nothing of the size."""
    return {"mediaType": media_type, "digest": digest, "size": 1}


def write(path: Path, content: bytes) -> None:
    """Write a file, and directories that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
