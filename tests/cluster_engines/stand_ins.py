"""Small TLS servers that stand in for replicas before a real balancer."""

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.cluster_engines.nodes import TestNode

from dtr.cluster.model import PoolMember


class Replica(ThreadingHTTPServer):
    """Something that looks like a replica: its name at `/`, its health at `/health`."""

    daemon_threads = True

    def __init__(self, node: TestNode, port: int) -> None:
        self.health = 200
        self.name = node.identity.name
        self.node = node
        self._running: set[socket.socket] = set()
        super().__init__((node.identity.host_address, port), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(node.directory.certificate, node.directory.key)
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )

    def process_request(self, request: object, client_address: object) -> None:
        """Keep count of connections."""
        assert isinstance(request, socket.socket)
        self._running.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: object) -> None:
        """Forget a connection that has ended."""
        assert isinstance(request, socket.socket)
        self._running.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that leave."""

    def die(self) -> None:
        """End as a killed process does: nobody listens, and every connection is over."""
        self.shutdown()
        self.server_close()
        for each in tuple(self._running):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Replica

    def do_GET(self) -> None:
        body = self.server.name.encode()
        self.send_response(self.server.health if self.path == "/health" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def serving(node: TestNode, port: int) -> Iterator[Replica]:
    """Run a replica in a thread."""
    server = Replica(node, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.die()
        thread.join()


def connection_to(port: int, ca: Path) -> http.client.HTTPSConnection:
    """Give a connection to a balancer on this machine; it verifies whom it reaches."""
    context = ssl.create_default_context(cafile=str(ca))
    return http.client.HTTPSConnection("localhost", port, context=context, timeout=10)


def name_at(connection: http.client.HTTPSConnection) -> str:
    """Ask who is at the other end."""
    connection.request("GET", "/")
    return connection.getresponse().read().decode()


def member(name: str, node: TestNode, port: int, *, is_draining: bool = False) -> PoolMember:
    """Describe a replica to the balancer."""
    return PoolMember(
        id=name,
        address=node.identity.host_address,
        https_port=port,
        http_port=port,
        is_draining=is_draining,
    )
