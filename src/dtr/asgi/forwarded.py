"""Who is really asking, and under which name we were asked, when a proxy stands between."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from dtr.asgi.request import Request

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(?::\d{1,5})?\Z|\[[0-9a-fA-F:.]{2,45}\](?::\d{1,5})?\Z")


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies whose `X-Forwarded-*` headers are believed; nobody else's are."""

    trusted: Sequence[IPv4Network | IPv6Network] = ()

    def client(self, request: Request) -> str:
        """Return the address of the client: the last one that no trusted proxy vouches for."""
        peer = _peer(request)
        if not self.trusted or not self._is_trusted(peer):
            return peer
        for hop in reversed(request.header(b"x-forwarded-for").split(",")):
            peer = hop.strip() or peer
            if not self._is_trusted(peer):
                break
        return peer[:64]

    def origin(self, request: Request) -> str:
        """Return scheme and host that the client used, without a slash at the end."""
        scheme, host = request.scope["scheme"], request.header(b"host")
        if self.trusted and self._is_trusted(_peer(request)):
            scheme = request.header(b"x-forwarded-proto") or scheme
            host = request.header(b"x-forwarded-host") or host
        if _HOST.match(host) is None:
            server = request.scope.get("server") or ("localhost", None)
            host = f"{server[0]}:{server[1]}" if server[1] else str(server[0])
        return f"{'https' if scheme == 'https' else 'http'}://{host}"

    def _is_trusted(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self.trusted)


def _peer(request: Request) -> str:
    client = request.scope.get("client")
    return str(client[0]) if client else ""
