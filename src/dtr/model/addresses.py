"""Addresses of machines, in one form however they were written."""

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

_LONGEST: Final = 64
_BRACKETED: Final = re.compile(r"\[([^\[\]]+)\](?::\d{0,5})?\Z", re.ASCII)
_WITH_PORT: Final = re.compile(r"([^:]+):\d{1,5}\Z", re.ASCII)


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address in `text`, or None where it is none.

    A port and brackets are left out, and an IPv4 address that was mapped into IPv6 (as sockets
    that listen at `[::]` report it) is the IPv4 address.

    >>> parse_address("::ffff:192.0.2.1")
    IPv4Address('192.0.2.1')
    >>> parse_address("[2001:db8::1]:443")
    IPv6Address('2001:db8::1')
    >>> parse_address("192.0.2.1:40000")
    IPv4Address('192.0.2.1')
    """
    return _parsed(text)[0] if len(text) <= _LONGEST else None


def canonical_address(text: str) -> str:
    """Return the one way to write the address in `text`; other text is only cut to 64 characters.

    >>> canonical_address("::ffff:127.0.0.1"), canonical_address("unknown")
    ('127.0.0.1', 'unknown')
    """
    return _parsed(text[:_LONGEST])[1]


@lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[IPv4Address | IPv6Address | None, str]:
    match = _BRACKETED.match(text) or _WITH_PORT.match(text)
    try:
        found = ip_address(match[1] if match else text)
    except ValueError:
        return None, text
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped, str(found.ipv4_mapped)
    return found, str(found)
