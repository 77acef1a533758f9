"""Where an import comes from; nothing that a source says is believed before it was verified."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dtr.model.digest import Digest
from dtr.model.errors import InvalidError
from dtr.model.names import Reference


class SourceError(InvalidError):
    """The source did not give this, and it is not known whether it has it."""


class LostError(SourceError):
    """The source does not have this whole, or it is more than is taken: for good."""


class NotThereError(LostError):
    """The source answers that it does not have this."""


class RepositoryUnknownError(SourceError):
    """The source has nothing of this repository that could be listed."""


@dataclass(frozen=True, slots=True)
class SourceManifest:
    """The very bytes of a manifest, whose digest they have; no media type where none is kept."""

    digest: Digest
    payload: bytes
    media_type: str = ""


class Source(Protocol):
    """A registry that content is taken from.

    Raises (all methods):
        SourceError: it does not have what was asked for; what else is there may still be asked.
        UnavailableError: it does not answer.

    """

    async def check(self) -> None:
        """Make sure that the source is there and lets us in."""
        ...

    def repositories(self) -> AsyncIterator[str]:
        """Find the names of all repositories, as the source spells them."""
        ...

    def tags(self, repository: str) -> AsyncIterator[str]:
        """Find the names of a repository's tags, as the source spells them.

        Raises:
            RepositoryUnknownError: there is no such repository, or blobs are all that it has.

        """
        ...

    def untagged(self, repository: str) -> AsyncIterator[Digest]:
        """Find manifests that need not have a tag, where the source can tell; some may have one."""
        ...

    def referrers(self, repository: str, subject: Digest) -> AsyncIterator[Digest]:
        """Find the manifests that refer to `subject`, where the source can tell.

        A source that fails to tell raises, also after some: it is never taken for one without.
        """
        ...

    async def manifest(
        self, repository: str, reference: Reference, *, limit: int
    ) -> SourceManifest:
        """Return a manifest of at most `limit` bytes."""
        ...

    async def blob_size(self, repository: str, digest: Digest) -> int:
        """Return how large a blob of the repository is said to be."""
        ...

    def blob(self, repository: str, digest: Digest) -> AsyncIterator[bytes]:
        """Stream a blob of the repository; its bytes are still to be verified."""
        ...

    def blob_path(self, repository: str, digest: Digest) -> Path | None:
        """Return the file that a blob of the repository is in, where it is a local file."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
