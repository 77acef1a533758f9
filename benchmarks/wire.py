"""A small HTTP/1.1 client on bare sockets: quick enough not to be what is measured."""

import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from benchmarks.failure import BenchmarkError

HOST = "127.0.0.1"
TIMEOUT_SECONDS = 120.0
RECEIVE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Address:
    """Where a contender listens, and how to speak to it."""

    port: int
    tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self.tls else 'http'}://{HOST}:{self.port}"


@dataclass(frozen=True)
class Response:
    """An answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def location(self) -> str:
        """Path and query of the Location header, whether it was absolute or not."""
        parts = urlsplit(self.headers["location"])
        return parts.path + (f"?{parts.query}" if parts.query else "")

    def expect(self, status: int, what: str) -> Self:
        """Return itself.

        Raises:
            BenchmarkError: the status is another one.
        """
        if self.status != status:
            raise BenchmarkError(f"{what}: {self.status} {self.body[:300]!r}, not {status}")
        return self


class Connection:
    """One kept-alive connection. Not safe for threads; each brings its own."""

    def __init__(self, address: Address) -> None:
        plain = socket.create_connection((HOST, address.port), timeout=TIMEOUT_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = plain
        if address.tls:
            self._socket = address.tls.wrap_socket(plain, server_hostname=HOST)
        self._host = f"{HOST}:{address.port}"
        self._received = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Response:
        """Send one request and return its answer with the whole body."""
        sent = dict(headers or {})
        if method in {"POST", "PUT", "PATCH"} and "Transfer-Encoding" not in sent:
            sent["Content-Length"] = str(len(body))
        self._socket.sendall(head(method, target, self._host, sent) + body)
        answer = self._read_head()
        return Response(answer.status, answer.headers, self._read_body(method, answer))

    def upload(self, method: str, target: str, headers: Mapping[str, str], file: Path) -> Response:
        """Send a file as the body with sendfile, and return the answer."""
        size = file.stat().st_size
        sent = dict(headers) | {"Content-Length": str(size)}
        self._socket.sendall(head(method, target, self._host, sent))
        with file.open("rb") as source:
            try:
                self._socket.sendfile(source, 0, size)
            except (BrokenPipeError, ConnectionResetError) as error:
                raise BenchmarkError(f"{method} {target}: cut while sending") from error
        answer = self._read_head()
        return Response(answer.status, answer.headers, self._read_body(method, answer))

    def download(
        self,
        target: str,
        headers: Mapping[str, str],
        buffer: bytearray,
        consume: Callable[[memoryview], None] = lambda _: None,
    ) -> tuple[Response, int]:
        """GET a body piece by piece into `buffer`; return head and length.

        Each piece is overwritten by the next once `consume` returned.
        """
        self._socket.sendall(head("GET", target, self._host, headers))
        answer = self._read_head()
        if answer.status != 200 or "content-length" not in answer.headers:
            return answer, 0
        wanted = int(answer.headers["content-length"])
        got = len(self._received)
        consume(memoryview(bytes(self._received)))
        self._received.clear()
        view = memoryview(buffer)
        while got < wanted:
            count = self._socket.recv_into(view)
            if not count:
                raise BenchmarkError(f"GET {target}: cut after {got} of {wanted} bytes")
            consume(view[:count])
            got += count
        return answer, got

    def _receive(self) -> None:
        piece = self._socket.recv(RECEIVE_BYTES)
        if not piece:
            raise BenchmarkError("the contender closed the connection")
        self._received += piece

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            self._receive()
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def _take_to(self, mark: bytes) -> bytes:
        while (end := self._received.find(mark)) < 0:
            self._receive()
        return self._take(end + len(mark))[: -len(mark)]

    def _read_head(self) -> Response:
        status_line, *lines = self._take_to(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return Response(int(status_line.split(" ", 2)[1]), headers)

    def _read_body(self, method: str, answer: Response) -> bytes:
        if method == "HEAD" or answer.status in {204, 304}:
            return b""
        if answer.headers.get("transfer-encoding", "").lower() != "chunked":
            return self._take(int(answer.headers.get("content-length", "0")))
        pieces = []
        while size := int(self._take_to(b"\r\n").split(b";")[0], 16):
            pieces.append(self._take(size))
            self._take(2)
        self._take_to(b"\r\n")
        return b"".join(pieces)


def head(method: str, target: str, host: str, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a request's head."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def with_digest(location: str, digest: str) -> str:
    """Return the address that closes an upload session."""
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


def chunked(body: bytes) -> bytes:
    """Return a body in the chunked transfer coding, as one chunk, as docker streams it."""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
