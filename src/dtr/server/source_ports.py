"""Ports of this machine to connect from, where the port says whose a connection is.

The kernel keeps a port of a connection that has ended for a minute, and gives it to nobody who asks
for any. Some 28,000 short connections, a stranger's included, would use up all there are. Who asks
for a certain port, and allows it to be used again, gets it: within this machine the other end can
tell a new connection from an old one by its time stamps.
"""

import errno
import random
import socket
from pathlib import Path
from typing import Final

_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_RANGE: Final = (32_768, 60_999)
_MOST_TRIES: Final = 256


class SourcePorts:
    """Gives each port to one connection at a time, and each of them in turn: none soon again."""

    def __init__(self, host: str, ports: tuple[int, int] | None = None) -> None:
        """Connect from `host`; `ports` are the first and the last, by default the system's."""
        self._host = host
        self._first, self._last = ports or _system_range()
        self._next = random.randint(self._first, self._last)  # noqa: S311 - no secret
        self._taken: set[int] = set()

    def bound(self) -> tuple[socket.socket, int]:
        """Return a socket that does not block, and its port, which is taken until `release`.

        Raises:
            OSError: no port is free.

        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        for _ in range(_MOST_TRIES):
            port = self._turn()
            if port in self._taken:
                continue
            found = socket.socket(family, socket.SOCK_STREAM)
            try:
                found.setblocking(False)
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                found.bind((self._host, port))
            except OSError as error:
                found.close()
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            self._taken.add(port)
            return found, port
        raise OSError(errno.EADDRNOTAVAIL, "no port is free")

    def release(self, port: int) -> None:
        """Let a port be used again, when its turn comes."""
        self._taken.discard(port)

    def _turn(self) -> int:
        port = self._next
        self._next = port + 1 if port < self._last else self._first
        return port


def _system_range() -> tuple[int, int]:
    try:
        first, last = _RANGE.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return _USUAL_RANGE
    return int(first), int(last)
