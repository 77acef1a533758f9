"""How the registry is reached where it is not alone at its address, or from other sites' pages."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from dtr.asgi import Request, Response
from dtr.asgi.forwarded import Proxies
from dtr.model.errors import RouteUnknownError

_AT_THE_ROOT: Final = frozenset({"/_ping", "/health", "/metrics", "/", "*"})
"""What balancers and monitors ask for, whatever the prefix."""
_LINK: Final = re.compile(rb"<(/[^>]*)>")
_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
    (b"access-control-allow-headers", b"Authorization, Accept, Content-Type, Content-Range, Range"),
    (b"access-control-max-age", b"600"),
)
_EXPOSED: Final = (
    b"access-control-expose-headers",
    b", ".join(
        (
            *(b"Content-Range", b"Docker-Content-Digest", b"Docker-Upload-UUID", b"Link"),
            *(b"Location", b"OCI-Chunk-Min-Length", b"OCI-Filters-Applied", b"OCI-Subject"),
            *(b"OCI-Tag", b"Range", b"Retry-After", b"Warning", b"WWW-Authenticate"),
        )
    ),
)


@dataclass(frozen=True, slots=True)
class Reach:
    """What is done to addresses on their way in and out; by default nothing.

    `prefix` is the path that all of the registry is below, without a slash at its end. `origins`
    are other sites whose pages may call the registry from browsers; `*` is every site. Credentials
    are never sent by a browser of itself: a page must have its own token.
    """

    proxies: Proxies
    public_url: str = ""
    prefix: str = ""
    is_absolute: bool = False
    origins: Collection[str] = ()

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.prefix or self.is_absolute or self.origins)

    def enter(self, request: Request) -> None:
        """Take the prefix off a request's path.

        Raises:
            RouteUnknownError: it is not below the prefix.

        """
        if not self.prefix:
            return
        path = request.path
        if path.startswith(f"{self.prefix}/"):
            request.path = path.removeprefix(self.prefix)
        elif path not in _AT_THE_ROOT:
            raise RouteUnknownError(path=path[:200])

    def leave(self, request: Request, response: Response) -> None:
        """Write addresses as the client can use them, and say who may read the answer."""
        if self.prefix or self.is_absolute:
            before = self._before(request)
            response.headers = [
                (name, _with(before, name, value)) for name, value in response.headers
            ]
        if self.origins:
            self._share(request, response)

    def _before(self, request: Request) -> bytes:
        origin = ""
        if self.is_absolute:
            origin = self.public_url or self.proxies.origin(request)
        return f"{origin}{self.prefix}".encode("latin-1")

    def _share(self, request: Request, response: Response) -> None:
        if "*" not in self.origins:
            response.headers.append((b"vary", b"Origin"))
        origin = request.header(b"origin")
        if not origin or ("*" not in self.origins and origin not in self.origins):
            return
        allowed = "*" if "*" in self.origins else origin
        response.add(b"access-control-allow-origin", allowed)
        response.headers.append(_EXPOSED)
        if request.method == "OPTIONS" and request.header(b"access-control-request-method"):
            response.headers += _PREFLIGHT


def _with(before: bytes, name: bytes, value: bytes) -> bytes:
    """Return a header's value with our own addresses as they are from outside."""
    if name == b"location" and value.startswith(b"/"):
        return before + value
    if name == b"link":
        return _LINK.sub(lambda match: b"<" + before + match[1] + b">", value)
    return value
