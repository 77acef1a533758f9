"""The data directory of a docker-registry (CNCF Distribution 2 and 3, filesystem driver).

    DIR/docker/registry/v2/
        blobs/sha256/ab/abcd…/data                              bytes, of all repositories
        repositories/NAME/_layers/sha256/abcd…/link             the repository has this blob
        repositories/NAME/_manifests/revisions/sha256/…/link    the repository has this manifest
        repositories/NAME/_manifests/tags/TAG/current/link      the tag's manifest

A link is a file with a digest in it. A manifest that was deleted has lost its link, and collection
may have been interrupted anywhere: much can be missing. Symbolic links are not followed, so nothing
outside of the directory is read.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dtr.model.digest import Digest
from dtr.model.errors import DigestInvalidError
from dtr.model.names import MAX_NAME_LENGTH, Reference
from dtr.transfer.source import LostError, NotThereError, Source, SourceError, SourceManifest

_CHUNK_BYTES: Final = 1 << 20
_LINK_BYTES: Final = 256
_INSIDE: Final = Path("docker/registry/v2")


class DistributionDirectory:
    """A source whose server is stopped, or at least does not delete.

    Raises:
        SourceError: the directory is not one of a docker-registry.

    """

    def __init__(self, directory: Path) -> None:
        for root in (directory / _INSIDE, directory):
            if (root / "repositories").is_dir():
                self._root = root.resolve()
                return
        message = f"{directory} is no data directory of a docker-registry: it has no {_INSIDE}"
        raise SourceError(message)

    async def check(self) -> None:
        """Know it since the beginning."""

    async def repositories(self) -> AsyncIterator[str]:
        """Walk the tree; what begins with an underscore belongs to the repository above it."""
        for name in _repositories(self._root / "repositories", ""):
            yield name

    async def tags(self, repository: str) -> AsyncIterator[str]:
        """List the directory of tags."""
        for name in _directories(self._manifests(repository) / "tags"):
            yield name

    async def untagged(self, repository: str) -> AsyncIterator[Digest]:
        """List the revisions that have a link."""
        revisions = self._manifests(repository) / "revisions"
        for algorithm in _directories(revisions):
            for encoded in _directories(revisions / algorithm):
                try:
                    digest = Digest.parse(f"{algorithm}:{encoded}")
                except DigestInvalidError:
                    continue
                if (revisions / algorithm / encoded / "link").is_file():
                    yield digest

    async def referrers(self, _repository: str, _subject: Digest) -> AsyncIterator[Digest]:
        """Find none: they are among the revisions."""
        none: tuple[Digest, ...] = ()
        for digest in none:
            yield digest

    async def manifest(
        self, repository: str, reference: Reference, *, limit: int
    ) -> SourceManifest:
        """Read the revision's bytes and verify them."""
        digest = reference
        if not isinstance(digest, Digest):
            digest = self._link(self._manifests(repository) / "tags" / reference / "current")
        revision = self._manifests(repository) / "revisions" / digest.algorithm / digest.encoded
        if self._link(revision) != digest:
            raise LostError(f"the link of manifest {digest} names another one")
        path = self._blob(digest)
        if path.stat().st_size > limit:
            raise LostError(f"manifest {digest} is larger than {limit} bytes")
        payload = path.read_bytes()
        if Digest.of(payload, digest.algorithm) != digest:
            raise LostError(f"the bytes of manifest {digest} are damaged")
        return SourceManifest(digest, payload)

    async def blob_size(self, repository: str, digest: Digest) -> int:
        """Return the file's size."""
        return self.blob_path(repository, digest).stat().st_size

    async def blob(self, repository: str, digest: Digest) -> AsyncIterator[bytes]:
        """Read the file in pieces of a mebibyte."""
        with self.blob_path(repository, digest).open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                yield chunk

    def blob_path(self, repository: str, digest: Digest) -> Path:
        """Return the file, if the repository has a link to it: others must not get at it by name.

        A manifest may name any digest; that it is somewhere in the registry is not enough.
        """
        layers = self._root / "repositories" / repository / "_layers"
        if self._link(layers / digest.algorithm / digest.encoded) != digest:
            raise LostError(f"the link of blob {digest} names another one")
        return self._blob(digest)

    async def close(self) -> None:
        """Hold nothing."""

    def _manifests(self, repository: str) -> Path:
        return self._root / "repositories" / repository / "_manifests"

    def _link(self, directory: Path) -> Digest:
        path = self._regular(directory / "link")
        with path.open("rb") as file:
            content = file.read(_LINK_BYTES)
        try:
            return Digest.parse(content.decode(errors="replace").strip())
        except DigestInvalidError:
            raise LostError(f"the link {self._shown(path)} does not hold a digest") from None

    def _blob(self, digest: Digest) -> Path:
        blobs = self._root / "blobs" / digest.algorithm / digest.encoded[:2]
        return self._regular(blobs / digest.encoded / "data")

    def _regular(self, path: Path) -> Path:
        """Return a file that is there, and there is where its path says."""
        if not path.exists():
            raise NotThereError(f"the file {self._shown(path)} is missing")
        if path.resolve() != path or not path.is_file():
            raise LostError(f"the path {self._shown(path)} is not a plain file of the directory")
        return path

    def _shown(self, path: Path) -> Path:
        return path.relative_to(self._root)


def _repositories(directory: Path, prefix: str) -> Iterator[str]:
    if len(prefix) > MAX_NAME_LENGTH:
        return  # no name is so long; nothing else bounds the depth
    for entry in _directories(directory):
        if entry.startswith("_"):
            continue
        name = f"{prefix}{entry}"
        if (directory / entry / "_manifests").is_dir():
            yield name
        yield from _repositories(directory / entry, f"{name}/")


def _directories(directory: Path) -> list[str]:
    """Return the names of directories, in order; none where there is no such directory."""
    try:
        with os.scandir(directory) as entries:
            return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


if TYPE_CHECKING:
    _: type[Source] = DistributionDirectory
