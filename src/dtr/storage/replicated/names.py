"""What replicas call things among themselves, checked where it comes in."""

import re
import secrets
from dataclasses import dataclass
from typing import Final, Self

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import InvalidError, UploadUnknownError

STAGED: Final = "staged/"
"""Begins what `walk` says of an upload's bytes, which have no key yet."""
_UPLOAD = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_NONCE = re.compile(r"[0-9a-f]{16}", re.ASCII)
_REPLICA = re.compile(r"[0-9a-f]{12}", re.ASCII)
_KEY = re.compile(r"[a-z0-9]{1,16}/[A-Za-z0-9]{2}/[A-Za-z0-9_-][A-Za-z0-9._-]{0,229}", re.ASCII)


@dataclass(frozen=True, slots=True)
class StagedName:
    """The bytes that one writer of an upload brings: nobody else writes under this name."""

    upload_id: str
    nonce: str

    @classmethod
    def new(cls, upload_id: str) -> Self:
        """Return a name that nobody has."""
        return cls(upload_id, secrets.token_hex(8))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` wrote.

        >>> StagedName.parse("1f0c.00112233aabbccdd").nonce
        '00112233aabbccdd'

        Raises:
            InvalidError: it is not such a name.

        """
        upload_id, _, nonce = text.partition(".")
        if not _UPLOAD.fullmatch(upload_id) or not _NONCE.fullmatch(nonce):
            raise InvalidError("not the name of staged bytes")
        return cls(upload_id, nonce)

    def __str__(self) -> str:
        """Return the name of the staged file."""
        return f"{self.upload_id}.{self.nonce}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an upload is: its last writer's nonce, and the replicas that have every byte."""

    nonce: str
    holders: tuple[str, ...]

    @classmethod
    def parse(cls, state: str) -> Self:
        """Read what `str` wrote, from the session's row.

        >>> Place.parse("00112233aabbccdd aaaaaaaaaaaa,bbbbbbbbbbbb").holders
        ('aaaaaaaaaaaa', 'bbbbbbbbbbbb')

        Raises:
            UploadUnknownError: another driver wrote it.

        """
        nonce, _, holders = state.partition(" ")
        names = tuple(holders.split(","))
        if not _NONCE.fullmatch(nonce) or not all(map(_REPLICA.fullmatch, names)):
            raise UploadUnknownError
        return cls(nonce, names)

    def __str__(self) -> str:
        """Write it as the session's row keeps it."""
        return f"{self.nonce} {','.join(self.holders)}"


def checked_upload(text: str) -> str:
    """Return an upload's id.

    Raises:
        InvalidError: it is not one.

    """
    if not _UPLOAD.fullmatch(text):
        raise InvalidError("not an upload's id")
    return text


def checked_key(text: str) -> str:
    """Return a key of committed bytes.

    >>> checked_key("sha256/ab/abcd.1f0c.00112233aabbccdd")
    'sha256/ab/abcd.1f0c.00112233aabbccdd'

    Raises:
        InvalidError: it is not one, and might lead out of the directory.

    """
    if not _KEY.fullmatch(text):
        raise InvalidError("not a key of stored bytes")
    return text


def digest_for(key: str, given: str | None) -> Digest:
    """Return the digest that bytes under a key must have: what the key says, and nothing else.

    Keys of this registry's own making begin with the algorithm and contain the digest. Those that
    came with blobs from an object store do not, and then the digest must be given.

    Raises:
        InvalidError: the key and what is given differ, or neither says a digest.

    """
    kind, directory, name = key.split("/")
    wanted = Digest.parse(given) if given else None
    if kind in set(Algorithm):
        found = Digest.parse(f"{kind}:{name.partition('.')[0]}")
        if found.encoded[:2] != directory or wanted not in {None, found}:
            raise InvalidError("the key says another digest")
        return found
    if wanted is None:
        raise InvalidError("the key says no digest, and none is given")
    return wanted
