"""The head that a balancer puts before a connection: PROXY protocol, both versions; pure.

https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt, section 2. Our own balancer speaks
version 2; nginx speaks version 1 only.
"""

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from dtr.model.addresses import parse_address

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
MOST_BYTES: Final = 16 + 2048

_LINE: Final = b"PROXY "
_LINE_BYTES: Final = 107
_LINE_FORM: Final = re.compile(
    rb"PROXY (?:(?:TCP4|TCP6) ([0-9A-Fa-f.:]{2,39}) [0-9A-Fa-f.:]{2,39} \d{1,5} \d{1,5}"
    rb"|UNKNOWN[\x20-\x7e]{0,94})\r\n"
)
_FIXED: Final = struct.Struct("!12sBBH")
_VERSION: Final = 2
_LOCAL, _PROXY = 0, 1
_IPV4: Final = 0x11
_IPV6: Final = 0x21
_LENGTHS: Final = {_IPV4: 12, _IPV6: 36}


class ProxyHeadError(Exception):
    """These bytes are no head of PROXY protocol."""


@dataclass(frozen=True, slots=True)
class ProxyHead:
    """What a head says: how long it is, and the client's address, empty for the balancer's own."""

    size: int
    client: str


def parse_head(received: bytes) -> ProxyHead | None:
    """Return what a connection's first bytes say; None where more of them are needed.

    >>> head = SIGNATURE + bytes.fromhex("2111000c c0000201 c0000202 1f90 01bb")
    >>> parse_head(head + b"what follows")
    ProxyHead(size=28, client='192.0.2.1')

    >>> parse_head(b"PROXY TCP4 192.0.2.1 192.0.2.2 8080 443" + bytes([13, 10]))
    ProxyHead(size=41, client='192.0.2.1')

    Raises:
        ProxyHeadError: they are no such head, or one of more than 2,064 bytes.
    """
    if received[:1] == _LINE[:1]:
        return _parse_line(received)
    if not SIGNATURE.startswith(received[: len(SIGNATURE)]):
        raise ProxyHeadError("it does not begin like PROXY protocol")
    if len(received) < _FIXED.size:
        return None
    _, version, family, length = _FIXED.unpack_from(received)
    size = _FIXED.size + length
    if version >> 4 != _VERSION or version & 15 not in {_LOCAL, _PROXY}:
        raise ProxyHeadError("it is not version 2")
    if size > MOST_BYTES:
        raise ProxyHeadError(f"it is longer than {MOST_BYTES} bytes")
    if len(received) < size:
        return None
    if version & 15 == _LOCAL:
        return ProxyHead(size, "")
    return ProxyHead(size, _client(family, received[_FIXED.size : size]))


def _client(family: int, packed: bytes) -> str:
    if family not in _LENGTHS:
        raise ProxyHeadError("it is not for TCP")
    if len(packed) < _LENGTHS[family]:
        raise ProxyHeadError("it ends within an address")
    if family == _IPV4:
        return str(IPv4Address(packed[:4]))
    address = IPv6Address(packed[:16])
    return str(address.ipv4_mapped or address)


def _parse_line(received: bytes) -> ProxyHead | None:
    """Return what a head of version 1 says, which is a line of text."""
    end = received.find(b"\n", 0, _LINE_BYTES)
    if end < 0 and len(received) < _LINE_BYTES and received.startswith(_LINE[: len(received)]):
        return None
    match = _LINE_FORM.fullmatch(received[: end + 1])
    if match is None:
        raise ProxyHeadError("it is not a line of PROXY protocol 1")
    if match[1] is None:
        return ProxyHead(end + 1, "")
    address = parse_address(match[1].decode("ascii"))
    if address is None:
        raise ProxyHeadError("it names no address")
    return ProxyHead(end + 1, str(address))
