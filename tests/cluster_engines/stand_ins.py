"""Small TLS servers that stand in for replicas before a real balancer."""

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
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


def users_chain(*, has_root: bool = False) -> tuple[str, str]:
    """Give a certificate, its intermediate authority's and maybe the root's; and the key."""
    root, middle, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    certificates = (
        _certificate("r.example", own, "middle", middle),
        _certificate("middle", middle, "root", root, is_authority=True),
        *([_certificate("root", root, "root", root, is_authority=True)] if has_root else []),
    )
    pem = "".join(each.public_bytes(Encoding.PEM).decode() for each in certificates)
    return pem, own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool = False,
) -> x509.Certificate:
    def called(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, text)])

    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(called(name))
        .issuer_name(called(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
