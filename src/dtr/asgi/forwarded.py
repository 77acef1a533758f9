"""Who is really asking, and under which name we were asked, when proxies stand between.

The rule of trust: what a header says counts as far as trusted proxies wrote it. Each proxy adds
to the end of a list, so lists are read from their end. The last entry was written by the proxy
that connected to us, the one before it by the proxy that the last entry names. The first address
that is not a trusted proxy's is the client's. What stands before it, the client may have made up.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, Literal

from dtr.asgi.request import Request
from dtr.model.addresses import canonical_address, parse_address

_HOST: Final = re.compile(
    r"[A-Za-z0-9._-]{1,253}(?::\d{1,5})?\Z|\[[0-9a-fA-F:.]{2,45}\](?::\d{1,5})?\Z", re.ASCII
)
_PAIR: Final = re.compile(r"\s*([A-Za-z]{1,20})=(?:\"([^\"\\]*)\"|([^\s\"\\]*))\s*\Z", re.ASCII)
_X_FORWARDED: Final = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
_MOST_HOPS: Final = 32
_MOST_KNOWN: Final = 4096


ForwardedHeader = Literal["auto", "x-forwarded", "forwarded"]
"""Which headers the trusted proxies write; those of the other kind may be the client's.

`auto`: `X-Forwarded-*` where one of them is there, else `Forwarded`.
"""


@dataclass(frozen=True, slots=True)
class _Hop:
    """What one proxy says about who connected to it; empty where it says nothing."""

    address: str
    scheme: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies whose headers are believed; nobody else's are."""

    trusted: Sequence[IPv4Network | IPv6Network] = ()
    header: ForwardedHeader = "auto"
    _known: dict[str, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    def client(self, request: Request) -> str:
        """Return the address of the client: the last one that no trusted proxy vouches for."""
        peer = _peer(request)
        if not self.trusted or not self.is_trusted(peer):
            return peer
        return self._first_hop(request, peer).address

    def origin(self, request: Request) -> str:
        """Return scheme and host that the client used, without a slash at the end."""
        scheme, host = request.scope["scheme"], request.header(b"host")
        peer = _peer(request)
        if self.trusted and self.is_trusted(peer):
            hop = self._first_hop(request, peer)
            scheme = hop.scheme or scheme
            host = hop.host if _HOST.match(hop.host) else host
        if _HOST.match(host) is None:
            name, port = request.scope.get("server") or ("localhost", None)
            name = f"[{name}]" if ":" in name else name
            host = f"{name}:{port}" if port else name
        return f"{'https' if scheme == 'https' else 'http'}://{host}"

    def _first_hop(self, request: Request, peer: str) -> _Hop:
        """Return what the proxy that the client connected to says, as far as it can be believed."""
        found = _Hop(peer)
        for hop in self._hops(request):
            address = canonical_address(hop.address) if hop.address else found.address
            found = _Hop(address, hop.scheme, hop.host)
            if not hop.address or not self.is_trusted(address):
                break
        return found

    def _hops(self, request: Request) -> Iterator[_Hop]:
        """Yield what the proxies say, the nearest first."""
        headers = request.headers
        if self.header == "forwarded" or (
            self.header == "auto"
            and b"forwarded" in headers
            and not any(name in headers for name in _X_FORWARDED)
        ):
            return _forwarded(request.header(b"forwarded"))
        return _x_forwarded(request)

    def is_trusted(self, address: str) -> bool:
        """Tell whether an address is a trusted proxy's, and so not a client's."""
        found = self._known.get(address)
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            found = self._known[address] = _is_within(address, self.trusted)
        return found


def _is_within(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    parsed = parse_address(address)
    if parsed is None:
        return False
    # Whoever wrote a network of mapped addresses meant the same machines.
    forms: tuple[IPv4Address | IPv6Address, ...] = (parsed,)
    if isinstance(parsed, IPv4Address):
        forms = (parsed, IPv6Address(f"::ffff:{parsed}"))
    return any(form in network for network in networks for form in forms)


def _x_forwarded(request: Request) -> Iterator[_Hop]:
    """Yield the entries of `X-Forwarded-*`, the nearest proxy's first.

    `X-Forwarded-Proto` is about the whole way: of a list the first counts, for the client's own
    connection decides what it is told. `X-Forwarded-Host` goes along with the addresses; where it
    has fewer entries, its first serves all the rest.
    """
    schemes = _items(request.header(b"x-forwarded-proto"))
    scheme = _scheme(schemes[0]) if schemes else ""
    hosts = _items(request.header(b"x-forwarded-host"))[-_MOST_HOPS:]
    addresses = _items(request.header(b"x-forwarded-for"))[-_MOST_HOPS:] or [""]
    for depth, address in enumerate(reversed(addresses), start=1):
        host = hosts[-min(depth, len(hosts))] if hosts else ""
        yield _Hop(address.strip('"'), scheme, host)


def _forwarded(header: str) -> Iterator[_Hop]:
    """Yield the elements of `Forwarded` (RFC 7239), the nearest proxy's first.

    They are split at every comma, in quotes or not: none of what we read has one, and a quote that
    a client leaves open must not swallow what proxies add behind it.
    """
    for element in _items(header)[: -_MOST_HOPS - 1 : -1]:
        matches = [_PAIR.match(pair) for pair in element.split(";") if pair.strip()]
        if not all(matches):
            return
        said = {match[1].lower(): match[2] or match[3] or "" for match in matches if match}
        yield _Hop(said.get("for", ""), _scheme(said.get("proto", "")), said.get("host", ""))


def _items(header: str) -> list[str]:
    return [item.strip() for item in header.split(",") if item.strip()] if header else []


def _scheme(text: str) -> str:
    lowered = text.lower()
    return lowered if lowered in {"http", "https"} else ""


def _peer(request: Request) -> str:
    client = request.scope.get("client")
    return canonical_address(str(client[0])) if client else ""
