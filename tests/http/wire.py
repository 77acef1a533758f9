"""Bytes on a real connection: for what no client library would send."""

import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, sleep
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Heard:
    """What the server said before it closed the connection, or before the time was over."""

    content: bytes
    seconds: float
    is_closed: bool

    @property
    def statuses(self) -> list[int]:
        """The statuses of all answers, in order."""
        lines = [part.split(b" ", 2) for part in self.content.split(b"\r\n")]
        versions = (b"HTTP/1.1", b"HTTP/1.0")
        return [int(line[1]) for line in lines if line[0].endswith(versions) and len(line) > 1]

    @property
    def status(self) -> int:
        """The status of the first answer; 0 without one."""
        return next(iter(self.statuses), 0)


def say(
    url: str,
    *pieces: bytes,
    seconds: float = 5,
    pause: float = 0,
    until: bytes = b"",
    closes: bool = False,
) -> Heard:
    """Send the pieces with a pause after each, then listen until the server is done.

    It is done when it closes, when `until` was heard, or after `seconds` in all. `closes`: nothing
    more will be sent, and the server learns it.
    """
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    started = monotonic()
    heard = b""
    is_closed = False
    with socket.create_connection((address.hostname, address.port), seconds) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                sleep(pause)
            if closes:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            is_closed = True
        connection.settimeout(0.2)
        while not is_closed and monotonic() - started < seconds and not (until and until in heard):
            with suppress(TimeoutError):
                try:
                    received = connection.recv(65536)
                except ConnectionResetError:
                    received = b""
                heard += received
                is_closed = not received
    return Heard(heard, monotonic() - started, is_closed)


def head(method: str, target: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """Return the head of a request, which the server ends the connection after."""
    lines = [f"{method} {target} HTTP/1.1", "Host: registry.test"]
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
