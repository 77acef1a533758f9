"""The plain HTTP listener: it says whether the server is well, and sends everybody else to HTTPS.

It runs in a process of its own that opens no database and no storage: whatever is sent to it in the
clear, there is nothing here that it could be used for.
"""

import asyncio
import json
import re
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import structlog

from dtr.asgi.connection_rules import group_of
from dtr.server.balancers import Balancers
from dtr.server.logs import configure_logging
from dtr.server.parent import leave_with_parent
from dtr.server.settings import Settings

_LOG = structlog.get_logger()
_HEALTH: Final = frozenset({"/_ping", "/health"})
_HEAD_BYTES: Final = 16_384
_ANSWER_BYTES: Final = 65_536
_MOST_CONNECTIONS: Final = 1024
_MOST_OF_ONE_ADDRESS: Final = 128
"""But of balancers, which ask for health and pass on everybody's."""
_BACKLOG: Final = 512
_PATIENCE_SECONDS: Final = 2.0
_REMEMBER_SECONDS: Final = 0.5
_LINGER_SECONDS: Final = 1.0
# In the absolute form, the target's host counts and Host does not (RFC 9112 3.2.2).
_REQUEST: Final = re.compile(
    rb"([A-Z]{1,20}) (?:[Hh][Tt][Tt][Pp]://([^/?#\s]+))?(/[\x21-\x7e]*) HTTP/1\.([01])"
)
_HOST: Final = re.compile(r"([A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes = b""
    location: str = ""

    def render(self, *, with_body: bool) -> bytes:
        lines = [
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            "Connection: close",
            "Content-Type: application/json",
            f"Content-Length: {len(self.body)}",
            *([f"Location: {self.location}"] if self.location else []),
        ]
        head = "\r\n".join((*lines, "", "")).encode("ascii")
        return head + self.body if with_body else head


class PlainListener:
    """Answers `/_ping` and `/health` with what the web workers say, and redirects all else."""

    def __init__(self, settings: Settings, *, is_tls: bool) -> None:
        listen = settings.server.http_listen
        assert listen is not None  # noqa: S101 - who asks for a listener says where
        self._listen = listen
        self._web = settings.server.listen
        self._is_tls = is_tls
        self._public_url = settings.server.public_url
        self._head_seconds = settings.server.header_read_seconds
        self._most_target_bytes = settings.limits.url_bytes
        self._log = settings.log
        server = settings.server
        networks = (*server.balancers, *server.trusted_proxies)
        self._balancers = Balancers(networks, settings.cluster.balancers_file)
        self._connections: Counter[str] = Counter()
        self._silent: dict[asyncio.StreamWriter, None] = {}
        self._remembered: dict[str, tuple[float, _Answer]] = {}
        self._asking = asyncio.Lock()

    def run(self) -> None:
        """Listen until SIGTERM; the body of the listener's process."""
        configure_logging(self._log.format, self._log.level)
        leave_with_parent()
        asyncio.run(self.serve())

    async def serve(self) -> None:
        """Listen until cancelled."""
        host, is_v6 = self._listen.host, ":" in self._listen.host
        listening = socket.create_server(
            (host, self._listen.port),
            family=socket.AF_INET6 if is_v6 else socket.AF_INET,
            backlog=_BACKLOG,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )
        server = await asyncio.start_server(self._connected, sock=listening, limit=_HEAD_BYTES)
        async with server:
            await self._balancers.follow()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("peername")[0]
        address = group_of(host)
        self._connections[address] += 1
        try:
            if self._has_room(host, address):
                await self._answer(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # who does not finish its request, or goes away, is told nothing
        except Exception:  # noqa: BLE001 - the outermost loop of a request
            _LOG.exception("plain request failed")
        finally:
            self._connections[address] -= 1
            if not self._connections[address]:
                del self._connections[address]
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _has_room(self, host: str, address: str) -> bool:
        """Tell whether a connection that was counted may stay, for which others may give way."""
        if self._connections.total() > _MOST_CONNECTIONS:
            oldest = next(iter(self._silent), None)
            if oldest is None:
                return False
            del self._silent[oldest]
            oldest.transport.abort()
        is_own_share = self._connections[address] <= _MOST_OF_ONE_ADDRESS
        return is_own_share or self._balancers.include(host)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._silence(writer), asyncio.timeout(self._head_seconds):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            answer, method = _Answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), b""
        else:
            answer, method = await self._answer_to(head)
        async with asyncio.timeout(self._head_seconds):
            writer.write(answer.render(with_body=method != b"HEAD"))
            await writer.drain()
            writer.write_eof()
        # A client that is still sending would lose the answer if the connection broke now.
        with suppress(TimeoutError):
            async with self._silence(writer), asyncio.timeout(_LINGER_SECONDS):
                while await reader.read(_HEAD_BYTES):
                    pass

    @asynccontextmanager
    async def _silence(self, writer: asyncio.StreamWriter) -> AsyncIterator[None]:
        """Let a connection give way, for as long as only its client is waited for."""
        self._silent[writer] = None
        try:
            yield
        finally:
            self._silent.pop(writer, None)

    async def _answer_to(self, head: bytes) -> tuple[_Answer, bytes]:
        line, _, fields = head.partition(b"\r\n")
        request = _REQUEST.fullmatch(line)
        if request is None:
            return _Answer(HTTPStatus.BAD_REQUEST), b""
        method, target = request[1], request[3].decode("ascii")
        if len(target) > self._most_target_bytes:
            return _Answer(HTTPStatus.REQUEST_URI_TOO_LONG), method
        hosts = _hosts(fields)
        if len(hosts) > 1 or (not hosts and request[4] == b"1"):  # RFC 9112 3.2
            return _Answer(HTTPStatus.BAD_REQUEST), method
        path = target.partition("?")[0]
        if path in _HEALTH and method in {b"GET", b"HEAD"}:
            return await self._health(path), method
        host = request[2].decode("latin-1") if request[2] else "".join(hosts)
        origin = self._public_url or self._origin(host)
        if not origin:
            return _Answer(HTTPStatus.BAD_REQUEST), method
        return _Answer(HTTPStatus.PERMANENT_REDIRECT, location=f"{origin}{target}"), method

    def _origin(self, host: str) -> str:
        """Return where the same host answers HTTPS; nothing where the client names no host."""
        match = _HOST.fullmatch(host)
        if match is None:
            return ""
        scheme, usual = ("https", 443) if self._is_tls else ("http", 80)
        port = "" if self._web.port == usual else f":{self._web.port}"
        return f"{scheme}://{match[1]}{port}"

    async def _health(self, path: str) -> _Answer:
        async with self._asking:
            at, answer = self._remembered.get(path, (float("-inf"), None))
            if answer is None or time.monotonic() - at >= _REMEMBER_SECONDS:
                answer = await self._ask(path)
                self._remembered[path] = time.monotonic(), answer
        return answer

    async def _ask(self, path: str) -> _Answer:
        """Return what a web worker answers, or that none does."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await self._fetch(path)
        except (OSError, TimeoutError, ValueError):
            document = {"Error": "web: no answer", "Healthy": False}
            return _Answer(HTTPStatus.SERVICE_UNAVAILABLE, json.dumps(document).encode())

    async def _fetch(self, path: str) -> _Answer:
        host = _ANYWHERE.get(self._web.host, self._web.host)
        reader, writer = await asyncio.open_connection(
            host, self._web.port, ssl=_own_context() if self._is_tls else None, limit=_ANSWER_BYTES
        )
        try:
            request = f"GET {path} HTTP/1.1\r\nHost: registry\r\nConnection: close\r\n\r\n"
            writer.write(request.encode("ascii"))
            answer = b""
            while len(answer) < _ANSWER_BYTES and (part := await reader.read(_ANSWER_BYTES)):
                answer += part
        finally:
            writer.transport.abort()
        head, _, body = answer.partition(b"\r\n\r\n")
        return _Answer(HTTPStatus(int(head.split(b" ", 2)[1])), body)


def _hosts(fields: bytes) -> list[str]:
    parts = (line.partition(":") for line in fields.decode("latin-1").split("\r\n"))
    return [value.strip() for name, _, value in parts if name.lower() == "host"]


def _own_context() -> ssl.SSLContext:
    """Trust whoever has the port of our own web workers, who are told nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
