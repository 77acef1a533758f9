"""Whether a port lets in whoever shows a certificate: a handshake, and a byte of an answer."""

import contextlib
import socket
import ssl
import struct
from pathlib import Path

from dtr.ucp.agent.files import KeyFiles
from dtr.ucp.model import KeyPair

_SECONDS = 10.0
_REQUEST = b"GET / HTTP/1.1\r\nHost: door\r\nConnection: close\r\n\r\n"


def written(directory: Path, name: str, pair: KeyPair) -> KeyFiles:
    """Write a key for somebody who would like to be let in; whom it trusts is nobody's affair."""
    directory.mkdir(parents=True, exist_ok=True)
    files = KeyFiles.of(directory, name)
    files.certificate.write_text(pair.certificate)
    files.key.write_text(pair.key)
    return files


def is_let_in_by_postgresql(address: str, port: int, files: KeyFiles | None) -> bool:
    """Tell the same of PostgreSQL, which wants a greeting of its own, and then a name."""
    name = b"user\0stranger\0\0"
    said = struct.pack("!ii", 8 + len(name), 3 << 16) + name
    return is_let_in(address, port, files, said, greeting=struct.pack("!ii", 8, 80877103))


def is_let_in(
    address: str,
    port: int,
    files: KeyFiles | None,
    said: bytes = _REQUEST,
    *,
    greeting: bytes = b"",
) -> bool:
    """Tell whether whoever shows this is answered; the server is trusted, whoever it is.

    With TLS 1.3 a server refuses a certificate only after the client's handshake is over, so that
    something is `said` and an answer waited for. `greeting` is what is said before TLS.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if files is not None:
        context.load_cert_chain(files.certificate, files.key)
    with socket.create_connection((address, port), timeout=_SECONDS) as plain:
        if greeting:
            plain.sendall(greeting)
            assert plain.recv(1) == b"S"
        try:
            with context.wrap_socket(plain) as secured:
                secured.sendall(said)
                answer = secured.recv(1)
                with contextlib.suppress(OSError):
                    while secured.recv(4096):
                        pass
        except (ssl.SSLError, ConnectionError):
            return False
    return bool(answer)
