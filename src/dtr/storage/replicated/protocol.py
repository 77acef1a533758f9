"""What replicas say to each other over HTTP: headers, limits, and errors by their names."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import (
    ContentDamagedError,
    DigestInvalidError,
    InvalidError,
    RegistryError,
    StorageFullError,
    UnavailableError,
    UploadBusyError,
    UploadUnknownError,
)
from dtr.storage.replicated.names import StagedName
from dtr.storage.replicated.staging import Start

ROOT: Final = "/peer/v1"
ERROR: Final = "dtr-error"
FREE: Final = "dtr-free-bytes"
MOST_BYTES: Final = 4 << 20
"""Most bytes that one request adds to an upload."""

STATUSES: Final[Mapping[type[RegistryError], int]] = {
    UploadUnknownError: 404,
    ContentDamagedError: 404,
    DigestInvalidError: 400,
    InvalidError: 400,
    UploadBusyError: 409,
    StorageFullError: 507,
    UnavailableError: 503,
}
"""How each error is said; its class's name goes with it."""
ERRORS: Final = {kind.__name__: kind for kind in STATUSES}


class Then(StrEnum):
    """What is done when a request's bytes are added."""

    NOTHING = "nothing"
    WRITE = "write"
    """All bytes are in the staged file, where they can be read."""
    FLUSH = "flush"
    """They are durable, and the writer is done."""
    COMMIT = "commit"


@dataclass(frozen=True, slots=True)
class Addition:
    """Bytes for an upload: from `offset` on, what the upload started from, and what comes then."""

    start: Start
    offset: int
    then: Then = Then.NOTHING
    digest: Digest | None = None
    """What to commit as."""
    attempt: int = 0
    """How often the writer began anew with these bytes on this replica: what an earlier attempt
    has left on its way does not count any more."""

    def parameters(self) -> dict[str, str]:
        """Return it as a query; `parse` reads it."""
        found = {
            "algorithm": str(self.start.algorithm),
            "offset": str(self.offset),
            "then": str(self.then),
        }
        if self.start.before is not None:
            found["before"] = str(self.start.before)
            found["begin"] = str(self.start.offset)
        if self.start.digest is not None:
            found["known"] = str(self.start.digest)
        if self.digest is not None:
            found["digest"] = str(self.digest)
        if self.attempt:
            found["attempt"] = str(self.attempt)
        return found

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Self:
        """Read a query.

        Raises:
            InvalidError: it is not an addition.

        """
        before, known, digest = query.get("before"), query.get("known"), query.get("digest")
        start = Start(
            Algorithm.parse(query.get("algorithm", "")),
            StagedName.parse(before) if before else None,
            number(query.get("begin", "0")),
            Digest.parse(known) if known else None,
        )
        try:
            then = Then(query.get("then", Then.NOTHING))
        except ValueError:
            raise InvalidError("not something to do with an upload") from None
        wanted = Digest.parse(digest) if digest else None
        if (then is Then.COMMIT) != (wanted is not None):
            raise InvalidError("a commit names a digest, and nothing else does")
        attempt = number(query.get("attempt", "0"))
        return cls(start, number(query.get("offset", "")), then, wanted, attempt)


def number(text: str) -> int:
    """Return a count of bytes.

    Raises:
        InvalidError: it is none.

    """
    if not (text.isascii() and text.isdigit() and len(text) <= 19):  # noqa: PLR2004 - 2^63
        raise InvalidError("not a number of bytes")
    return int(text)
