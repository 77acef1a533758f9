"""Patroni, with four things mended: `python -m … CONFIGURATION`.

It takes new hosts of etcd when it is told to read its configuration again: see `etcd_hosts`. A
clock that is set does not stop it: see `steady_time`. It runs its loop at once when there is
something to do: see `prompt`.

And nobody can keep its REST interface from answering. Patroni 4.1 gives each connection a thread of
a small pool, and waits for the TLS handshake without a limit. A handful of connections that say
nothing, such as a port scanner's or those of a machine that vanished, keep all of them: then nobody
is told that Patroni lives, neither other members at an election nor the agent, whose fence would
end a healthy primary.

So a connection that says nothing is let go after some seconds, and those of the machine itself,
where the agent is, have threads of their own: whatever others do, the agent hears that Patroni
lives.
"""

import socket
import sys
from http.server import HTTPServer
from threading import Thread
from typing import Any, Final

from patroni.__main__ import main
from patroni.api import RestApiServer

from dtr.cluster.engines.patroni_process.etcd_hosts import follow_configured_hosts
from dtr.cluster.engines.patroni_process.prompt import wake_for_changes
from dtr.cluster.engines.patroni_process.steady_time import count_seconds

_SILENCE_SECONDS: Final = 3.0

_process_with_pool = RestApiServer.process_request


def _get_request(server: HTTPServer) -> tuple[socket.socket, Any]:
    """Accept a connection whose handshake, request and answer may not pause for long."""
    connection, address = HTTPServer.get_request(server)
    connection.settimeout(_SILENCE_SECONDS)
    return connection, address


def _process_request(server: RestApiServer, connection: socket.socket, address: Any) -> None:
    """Answer this machine at once, and others as soon as a thread of the pool is free."""
    if connection.getsockname()[0] != address[0]:
        _process_with_pool(server, connection, address)
        return
    arguments = (connection, address)
    Thread(target=server.process_request_thread, args=arguments, daemon=True).start()


if __name__ == "__main__":
    # Not a class of our own in its place: Patroni's methods look for their class by its name.
    RestApiServer.get_request = _get_request
    RestApiServer.process_request = _process_request
    follow_configured_hosts()
    count_seconds()
    wake_for_changes()
    sys.exit(main())
