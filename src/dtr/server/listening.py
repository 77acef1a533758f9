"""A web worker that is to be followed by another one stops listening before it ends.

Granian stops listening, ends what is not a request yet, and finishes requests, all at once. A
connection whose TLS is just being agreed upon would break then. So the worker's listening socket is
taken away first, and what it accepted has a moment to become a request.
"""

import os
import socket
import struct
import time
from contextlib import suppress
from typing import Final

from dtr.asgi.connections import own_sockets

_WAITING: Final = struct.Struct("@24xI")  # tcpi_unacked: of a listening socket, what waits in it
_LOOKS: Final = 20
_PAUSE_SECONDS: Final = 0.001


def stop_listening(port: int) -> None:
    """Close this process's listening sockets at `port`, under the server that accepts from them.

    Each number goes on to exist, as a socket that nobody can connect to: the server may close it as
    its own, and is never told of a connection. What waits to be accepted is accepted first. Others
    that listen at the port (SO_REUSEPORT) get all that comes from now on.
    """
    found = _listening(port)
    for _ in range(_LOOKS):
        if not any(map(_waiting, found)):
            break
        time.sleep(_PAUSE_SECONDS)
    with socket.socket() as unbound:
        for descriptor in found:
            os.dup2(unbound.fileno(), descriptor, inheritable=False)


def _listening(port: int) -> list[int]:
    found = []
    for descriptor, _ in own_sockets():
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as each:
            if (
                each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                and each.getsockname()[1] == port
            ):
                found.append(descriptor)
    return found


def _waiting(descriptor: int) -> int:
    """Return how many connections wait to be accepted."""
    with socket.socket(fileno=os.dup(descriptor)) as each:
        answer = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WAITING.size)
    return int(_WAITING.unpack(answer)[0]) if len(answer) == _WAITING.size else 0
