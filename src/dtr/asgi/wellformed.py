"""Refuse what RFC 9110 and 9112 call malformed, as far as the server's library lets it pass.

The library (hyper, in Granian) parses the bytes. It refuses broken lines and lengths by itself;
what it hands on in spite of the standard is found here. `docs/api.md` lists what it hides.
"""

import re
from functools import lru_cache
from typing import Final

from dtr.asgi.request import Request
from dtr.model.errors import CodingUnsupportedError, MalformedRequestError

# uri-host [ ":" port ] of RFC 3986, without a user.
_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}){1,255})"
    rb"(?::[0-9]{0,5})?\Z"
)
_LONGEST_HOST: Final = 300
_ONCE: Final = frozenset(
    {b"authorization", b"content-length", b"content-range", b"content-type", b"host"}
    | {b"if-range", b"range"}
)
"""Of what has one value, two are a riddle: somebody before us may have read the other one."""


def check_wellformed(request: Request) -> None:
    """Look at the head of a request.

    Raises:
        MalformedRequestError: it is none that may be answered.
        CodingUnsupportedError: its body is coded in a way that nobody here can decode.

    """
    headers, lines = request.headers, request.scope["headers"]
    if len(headers) != len(lines):
        _check_lines(lines)
    # The server's library says an empty one where there is none; http has no empty host either.
    host = headers.get(b"host")
    if not host:
        if request.scope["http_version"] == "1.1":
            raise MalformedRequestError("the request has no Host header")  # RFC 9112 3.2
    elif len(host) > _LONGEST_HOST or not _is_host(host):
        raise MalformedRequestError("the Host header is not a host name or address")
    if not request.path.startswith("/") and (request.method, request.path) != ("OPTIONS", "*"):
        raise MalformedRequestError("the request target must be a path")  # RFC 9112 3.2.1
    coding = headers.get(b"transfer-encoding")
    if coding is not None and coding.lower() != b"chunked":
        _refuse_coding(coding)


def _check_lines(lines: list[tuple[bytes, bytes]]) -> None:
    seen: set[bytes] = set()
    for name, _ in lines:
        if name in seen and name in _ONCE:
            raise MalformedRequestError(f"more than one {name.decode('latin-1')} header")
        seen.add(name)


@lru_cache(maxsize=1024)
def _is_host(host: bytes) -> bool:
    return _HOST.match(host) is not None


def _refuse_coding(header: bytes) -> None:
    codings = [each.strip().lower() for each in header.split(b",")]
    if codings.count(b"chunked") > 1:
        raise MalformedRequestError("Transfer-Encoding must name chunked once only")  # RFC 9112 7
    if codings != [b"chunked"]:
        raise CodingUnsupportedError
