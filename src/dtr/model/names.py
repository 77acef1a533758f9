"""Repository, tag and account names (distribution-spec, Pulling manifests)."""

import re
from functools import lru_cache
from typing import Self

from dtr.model.digest import Digest, is_digest
from dtr.model.errors import NameInvalidError, TagInvalidError

MAX_NAME_LENGTH = 255
"""Longest repository name in characters; many clients cut host and name at 255 together."""

_NAME = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z", re.ASCII
)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z", re.ASCII)
_ACCOUNT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*\Z", re.ASCII)
_MAX_ACCOUNT_LENGTH = 64


class RepositoryName(str):
    """A repository's name; its first component is the namespace that owns it.

    >>> RepositoryName.parse("library/alpine").namespace
    'library'
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return `text` as a name.

        Raises:
            NameInvalidError: not in the specification's grammar, or longer than 255 characters.

        """
        _check_name(text)
        return cls(text)

    @property
    def namespace(self) -> str:
        """The first component: the account that owns the repository."""
        return self.partition("/")[0]


@lru_cache(4096)
def _check_name(text: str) -> None:
    """Check once what is asked for again and again; a refusal is not remembered."""
    if len(text) > MAX_NAME_LENGTH:
        raise NameInvalidError(f"repository name is longer than {MAX_NAME_LENGTH} characters")
    if _NAME.match(text) is None:
        message = "repository name must be lower-case letters, digits and ._- between slashes"
        raise NameInvalidError(message, name=text)


class TagName(str):
    """A tag: up to 128 of letters, digits, `_`, `.` and `-`, not beginning with the last two."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return `text` as a tag.

        Raises:
            TagInvalidError: not in the specification's grammar.

        """
        if _TAG.match(text) is None:
            message = "tag must be 1 to 128 letters, digits, _ . - and not begin with . or -"
            raise TagInvalidError(message, tag=text[:200])
        return cls(text)


Reference = TagName | Digest
"""What names a manifest within a repository."""


def parse_reference(text: str) -> Reference:
    """Return the tag or digest that `text` is.

    >>> parse_reference("latest")
    'latest'
    """
    return Digest.parse(text) if is_digest(text) else TagName.parse(text)


def parse_account_name(text: str) -> str:
    """Return `text` if an account may be called so: it is also the namespace of its repositories.

    Raises:
        NameInvalidError: not one component of a repository name of at most 64 characters.

    """
    if len(text) > _MAX_ACCOUNT_LENGTH or _ACCOUNT.match(text) is None:
        message = (
            f"account name must be 1 to {_MAX_ACCOUNT_LENGTH} lower-case letters and digits, "
            "with single . _ or dashes between them"
        )
        raise NameInvalidError(message, name=text[:200])
    return text
