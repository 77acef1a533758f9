"""Conditions on a request: If-Match, If-None-Match and If-Range (RFC 9110 section 13).

The entity tag of content is its digest in quotes, which is strong. There are no dates, so
If-Modified-Since and If-Unmodified-Since are ignored, as 13.1.3 and 13.1.4 demand.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dtr.asgi.request import Request
from dtr.model.errors import PreconditionFailedError

# Some clients send the digest without quotes.
_TAG: Final = re.compile(rb'(W/)?"([^"]*)"|([^\s,"]+)')
_ANY: Final = b"*"
_OTHER_CONTENT: Final = "the content is not what If-Match or If-None-Match asks for"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a request that writes demands of the content that is there when it writes."""

    match: bytes | None
    none_match: bytes | None

    @classmethod
    def of(cls, headers: Mapping[bytes, bytes]) -> "Conditions | None":
        """Return the conditions in a request's headers, or None where there are none."""
        match, none_match = headers.get(b"if-match"), headers.get(b"if-none-match")
        return None if match is none_match is None else cls(match, none_match)

    def require(self, current: str | None) -> None:
        """Make sure that the method may be performed on content of this digest, or on none.

        Call it in the transaction that writes: only then does nobody else write in between.

        Raises:
            PreconditionFailedError: it may not (13.2.2).

        """
        digest = None if current is None else current.encode()
        if not (_matches(self.match, digest) and _differs(self.none_match, digest)):
            raise PreconditionFailedError(_OTHER_CONTENT, digest=current)

    def require_without_etag(self) -> None:
        """Make sure that the method may be performed on something that has no entity tag.

        Raises:
            PreconditionFailedError: it may not: no tag matches, and there is something.

        """
        wants_tag = self.match is not None and not _names_any(self.match)
        if wants_tag or (self.none_match is not None and _names_any(self.none_match)):
            message = "If-Match and If-None-Match name content, and this has no ETag"
            raise PreconditionFailedError(message)


def is_current(request: Request, digest: bytes) -> bool:
    """Tell whether a client that reads has this very content already.

    Raises:
        PreconditionFailedError: it wants other content, or none.

    """
    headers = request.headers
    if not _matches(headers.get(b"if-match"), digest):
        raise PreconditionFailedError(_OTHER_CONTENT, digest=digest.decode())
    return not _differs(headers.get(b"if-none-match"), digest)


def check_without_etag(request: Request) -> None:
    """Look at the conditions of a request that writes to something without an entity tag.

    Raises:
        PreconditionFailedError: they do not hold (`Conditions.require_without_etag`).

    """
    conditions = Conditions.of(request.headers)
    if conditions is not None:
        conditions.require_without_etag()


def wants_part(request: Request, digest: bytes) -> bool:
    """Tell whether If-Range, if it is there, is about this content (13.1.5: strongly)."""
    condition = request.headers.get(b"if-range")
    return condition is None or condition.strip() == b'"%b"' % digest


def _matches(condition: bytes | None, digest: bytes | None) -> bool:
    """Tell whether If-Match holds (13.1.1)."""
    return condition is None or (digest is not None and _names(condition, digest, weakly=False))


def _differs(condition: bytes | None, digest: bytes | None) -> bool:
    """Tell whether If-None-Match holds (13.1.2)."""
    return condition is None or digest is None or not _names(condition, digest, weakly=True)


def _names(condition: bytes, digest: bytes, *, weakly: bool) -> bool:
    for weak, quoted, bare in _TAG.findall(condition):
        if bare == _ANY or ((quoted or bare) == digest and (weakly or not weak)):
            return True
    return False


def _names_any(condition: bytes) -> bool:
    """Tell whether a condition is `*`; twice on two lines is a list of it, which is no other."""
    return any(bare == _ANY for _, _, bare in _TAG.findall(condition))
