"""Which addresses are balancers': their connections are those of many clients."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Final

from dtr.model.addresses import parse_address

Network = IPv4Network | IPv6Network

_READ_AGAIN_SECONDS: Final = 1.0


class Balancers:
    """Networks of the settings, and the addresses in a file that is read again as it changes."""

    def __init__(self, fixed: Sequence[Network], file: Path | None) -> None:
        self._fixed = fixed
        self._file = file
        self._listed: frozenset[str] = frozenset()
        self._read()

    def include(self, address: str) -> bool:
        """Tell whether an address is a balancer's."""
        parsed = parse_address(address.partition("%")[0])
        if parsed is None:
            return False
        return str(parsed) in self._listed or any(parsed in each for each in self._fixed)

    async def follow(self) -> None:
        """Read the file again and again, until cancelled."""
        while True:
            await asyncio.sleep(_READ_AGAIN_SECONDS)
            self._read()

    def _read(self) -> None:
        if self._file is None:
            return
        with suppress(OSError, ValueError):
            lines = self._file.read_text(encoding="ascii").split()
            self._listed = frozenset(str(ip_address(line)) for line in lines)
