"""Whom a client of other registries may connect to, and who may have its password.

An operator names one server. Whatever that server names further (a token service, where its blobs
are) is named by a stranger: it gets a password only where the operator trusts it with one, and it
is connected to only at public addresses, unless the operator allowed its network. Otherwise a
registry could have this machine ask what only this machine can reach (CVE-2020-13788,
CVE-2026-2376), or hand it the password (CVE-2020-15157, CVE-2026-33540).
"""

import ipaddress
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import urlsplit

from dtr.model.errors import InvalidError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORTS: Final = {"http": 80, "https": 443}
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
# Registries whose token service is known to be at another host of the same people.
_KNOWN_TOKEN_SERVICES: Final = {
    "registry-1.docker.io": "auth.docker.io",
    "index.docker.io": "auth.docker.io",
    "registry.gitlab.com": "gitlab.com",
}


class TargetRefusedError(OSError):
    """The address is not one to connect to."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A scheme, a host and a port: whoever is there is one and the same."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read the origin of a URL; a path after it does not matter.

        >>> str(Origin.parse("https://Registry.example.com:443/v2/"))
        'https://registry.example.com'

        Raises:
            InvalidError: it is no URL of HTTP, or has a user in it.

        """
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, parts.hostname or "", parts.port
        except ValueError:
            scheme, host, port = "", "", None
        if scheme not in _PORTS or not host.isascii() or not host or "@" in parts.netloc:
            raise InvalidError("write the registry as https://HOST[:PORT], without a user name")
        return cls(scheme, host.lower(), port or _PORTS[scheme])

    def __str__(self) -> str:
        """Write it as a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


@dataclass(frozen=True, slots=True)
class Targets:
    """The one server that an operator named, and what else the operator allows it to name."""

    origin: Origin
    token_services: frozenset[Origin] = field(default_factory=frozenset)
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(
        cls, url: str, token_services: Iterable[str] = (), networks: Iterable[str] = ()
    ) -> Self:
        """Read what an operator wrote; a token service is `HOST[:PORT]` or a URL.

        Raises:
            InvalidError: one of these cannot be read.

        """
        origin = Origin.parse(url)
        named = list(token_services)
        if origin.host in _KNOWN_TOKEN_SERVICES:
            named.append(_KNOWN_TOKEN_SERVICES[origin.host])
        services = [Origin.parse(each if "://" in each else f"https://{each}") for each in named]
        if any(each.scheme == "http" for each in services) and origin.scheme == "https":
            raise InvalidError("a registry at https:// needs a token service at https://")
        return cls(origin, frozenset(services), tuple(map(_network, networks)))

    def may_have_password(self, origin: Origin) -> bool:
        """Whether the password is for this server: the one that was named, or a listed service."""
        return origin == self.origin or origin in self.token_services

    def may_be_reached(self, address: str) -> bool:
        """Whether a server that a stranger named may be at this address.

        >>> targets = Targets.parse("https://registry.example.com", networks=["10.1.0.0/16"])
        >>> [targets.may_be_reached(each) for each in ("9.9.9.9", "10.1.2.3", "169.254.169.254")]
        [True, True, False]

        """
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False  # no address, but something that the system might take for one
        return all(self._is_allowed(each) for each in _meant(found))

    def connect(self, found: tuple[Any, ...]) -> socket.socket:
        """Make the socket for an address that a name was resolved to, just before it is used.

        Raises:
            TargetRefusedError: this address is not for strangers to name.

        """
        family, kind, protocol, _, address = found
        if not self.may_be_reached(str(address[0])):
            raise TargetRefusedError("its address is private")
        return socket.socket(family, kind, protocol)

    def _is_allowed(self, address: Address) -> bool:
        if any(address in network for network in self.networks):
            return True
        return address.is_global and not address.is_multicast


def _meant(address: Address) -> Iterator[Address]:
    """Yield the address that packets go to: some of IPv6 stand for one of IPv4 that is in them."""
    inner: Address | None = None
    if isinstance(address, ipaddress.IPv6Address):
        teredo = address.teredo
        inner = address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
        if address in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is None or not (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped):
        yield address
    if inner is not None:
        yield inner


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidError(
            f"the target {text} is not a network: write 10.0.0.0/8, or one address"
        ) from None
