"""Who looks after the connections can do so when no more files can be opened."""

import os
import resource
import socket
from contextlib import suppress

from dtr.asgi.connection_rules import ConnectionLimits
from dtr.asgi.connections import Connections


def test_connections_end_also_while_no_file_can_be_opened() -> None:
    """Files are kept for it: those who hold the others open are the ones to end."""
    now = 0.0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hogs: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        connections = Connections(address[1], ConnectionLimits(head_seconds=10), clock=lambda: now)
        connections.look()
        with socket.create_connection(address) as silent, listening.accept()[0]:
            resource.setrlimit(resource.RLIMIT_NOFILE, (silent.fileno() + 64, hard))
            try:
                with suppress(OSError):
                    while True:
                        hogs.append(os.open(os.devnull, os.O_RDONLY))
                connections.look()
                now = 11
                connections.look()
            finally:
                for hog in hogs:
                    os.close(hog)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                connections.close()
            silent.settimeout(5)
            with suppress(ConnectionResetError):
                assert silent.recv(1) == b""
