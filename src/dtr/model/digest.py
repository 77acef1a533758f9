"""Content digests (image-spec descriptor.md#digests)."""

import hashlib
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from dtr.model.errors import DigestInvalidError

if TYPE_CHECKING:
    from hashlib import _Hash as Hash


class Algorithm(StrEnum):
    """The registered algorithms, both kept as pushed: sha512 content is never renamed to sha256."""

    SHA256 = "sha256"
    SHA512 = "sha512"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the algorithm that `text` names.

        Raises:
            DigestInvalidError: the name is not one of the two that this registry keeps.

        """
        try:
            return cls(text)
        except ValueError:
            known = " or ".join(cls)
            raise DigestInvalidError(f"digest algorithm must be {known}", digest=text) from None

    def hasher(self) -> "Hash":
        """Return a fresh hash object."""
        return hashlib.new(self.value, usedforsecurity=True)


_CANONICAL = re.compile(r"(?:sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})\Z", re.ASCII)


class Digest(str):
    """A digest in canonical form: `sha256:` and 64, or `sha512:` and 128 lower-case hex digits.

    One content has one spelling per algorithm, so that digests can be compared and stored as text.

    >>> Digest.parse("sha256:" + "0" * 64).algorithm
    <Algorithm.SHA256: 'sha256'>
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return `text` as a digest.

        Raises:
            DigestInvalidError: unknown algorithm, wrong length, upper case, or anything else that
                is not the canonical form.

        """
        if _CANONICAL.match(text) is None:
            message = "digest must be sha256:<64> or sha512:<128 lower-case hex digits>"
            raise DigestInvalidError(message, digest=text)
        return cls(text)

    @classmethod
    def of(cls, content: bytes, algorithm: Algorithm = Algorithm.SHA256) -> Self:
        """Return the digest of `content`."""
        return cls(f"{algorithm}:{hashlib.new(algorithm.value, content).hexdigest()}")

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm part."""
        return Algorithm(self.partition(":")[0])

    @property
    def encoded(self) -> str:
        """The hex part."""
        return self.partition(":")[2]


def is_digest(reference: str) -> bool:
    """Tell a digest (perhaps a malformed one) from a tag: only a digest has a colon."""
    return ":" in reference
