"""HTTP servers that answer as a test says, and remember who asked."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What a server says to one request."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None


Script = Callable[[str, dict[str, str]], Answer]


@dataclass
class Server:
    """A server that answers as a test says, and remembers who asked for what with which right."""

    url: str
    script: Script
    requests: list[tuple[str, str]]


Servers = Callable[[Script], Server]


@contextmanager
def scripted_servers(tls: ssl.SSLContext | None = None) -> Iterator[Servers]:
    """Give what starts a server on a script, over TLS if asked; all of them stop in the end."""
    running: list[ThreadingHTTPServer] = []

    def start(script: Script) -> Server:
        requests: list[tuple[str, str]] = []
        handler = _handler(script, requests)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        running.append(server)
        scheme = "http" if tls is None else "https"
        return Server(f"{scheme}://127.0.0.1:{server.server_port}", script, requests)

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def _handler(script: Script, requests: list[tuple[str, str]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append((self.path, self.headers.get("authorization", "")))
            answer = script(self.path, {k.lower(): v for k, v in self.headers.items()})
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            length = len(answer.body) if answer.length is None else answer.length
            self.send_header("content-length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_arguments: Any) -> None:
            """Say nothing."""

    return Handler
