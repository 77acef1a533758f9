"""Whose connections the front passes on, as a table in memory that all processes share.

To a web worker such a connection comes from this machine. Its source port is the place in the table
where the front wrote the client's address before it connected.
"""

import mmap
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

_ADDRESS_BYTES: Final = 16
_PORTS: Final = 65_536
_BYTES: Final = _PORTS * _ADDRESS_BYTES
_NOBODY: Final = bytes(_ADDRESS_BYTES)
_MAPPED: Final = bytes(10) + b"\xff\xff"


class PeerTable:
    """Clients' addresses by the source port of the front's connections from `host`.

    One process writes, any number read. An entry is whole before its connection is made, and it is
    removed when the connection has ended, so nobody else can have the port while it is there.
    """

    def __init__(self, path: Path, host: str, *, is_writer: bool = False) -> None:
        """Map a table that `create` made."""
        self._host = host
        access = mmap.ACCESS_WRITE if is_writer else mmap.ACCESS_READ
        with path.open("r+b" if is_writer else "rb") as file:
            self._table = mmap.mmap(file.fileno(), _BYTES, access=access)

    @staticmethod
    def create(path: Path) -> None:
        """Make an empty table; one that is there is emptied."""
        path.parent.mkdir(exist_ok=True)
        path.touch(mode=0o600)
        with path.open("r+b") as file:
            file.truncate(0)
            file.truncate(_BYTES)

    def clear(self) -> None:
        """Forget everybody: the front begins anew, and none of its connections is left."""
        self._table[:] = bytes(_BYTES)

    def add(self, port: int, client: str) -> None:
        """Write whose connection comes from `port` next."""
        address = ip_address(client)
        packed = address.packed if isinstance(address, IPv6Address) else _MAPPED + address.packed
        self._table[port * _ADDRESS_BYTES : (port + 1) * _ADDRESS_BYTES] = packed

    def remove(self, port: int) -> None:
        """Forget who had `port`."""
        self._table[port * _ADDRESS_BYTES : (port + 1) * _ADDRESS_BYTES] = _NOBODY

    def client(self, host: str, port: int) -> str:
        """Return whose connection it is: the client's address, or `host` itself."""
        if host != self._host:
            return host
        packed = self._table[port * _ADDRESS_BYTES : (port + 1) * _ADDRESS_BYTES]
        if packed == _NOBODY:
            return host
        if packed.startswith(_MAPPED):
            return ".".join(map(str, packed[12:]))
        return str(IPv6Address(packed))
