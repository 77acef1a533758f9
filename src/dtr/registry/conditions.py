"""Conditions on a request: If-Match, If-None-Match and If-Range (RFC 9110 section 13).

The tag of content is its digest in quotes, which is strong. There are no dates, so
If-Modified-Since and If-Unmodified-Since are ignored, as 13.1.3 and 13.1.4 demand.
"""

import re
from typing import Final

from dtr.asgi import Request
from dtr.model.errors import PreconditionFailedError

# Some clients send the digest without quotes.
_TAG: Final = re.compile(rb'(W/)?"([^"]*)"|([^\s,"]+)')


def is_current(request: Request, digest: bytes) -> bool:
    """Tell whether a client that reads has this very content already.

    Raises:
        PreconditionFailedError: it wants other content, or none.

    """
    headers = request.headers
    wanted = headers.get(b"if-match")
    if wanted is not None and not _names(wanted, digest, weakly=False):
        raise PreconditionFailedError(digest=digest.decode())
    condition = headers.get(b"if-none-match")
    return condition is not None and _names(condition, digest, weakly=True)


def wants_part(request: Request, digest: bytes) -> bool:
    """Tell whether If-Range, if it is there, is about this content (13.1.5: strongly)."""
    condition = request.headers.get(b"if-range")
    return condition is None or condition.strip() == b'"%b"' % digest


def _names(condition: bytes, digest: bytes, *, weakly: bool) -> bool:
    if condition.strip() == b"*":
        return True
    for weak, quoted, bare in _TAG.findall(condition):
        if (quoted or bare) == digest and (weakly or not weak):
            return True
    return False
