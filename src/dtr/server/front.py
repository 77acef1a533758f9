"""The front: where balancers connect, who say in PROXY protocol 2 whose connection it is.

It runs in a process of its own, reads that head, and passes bytes on to the web workers without
looking at them: TLS ends there. Whose connection it is, it writes into a table for them (ADR 17).
Clients that connect to the web workers themselves never meet it.
"""

import asyncio
import errno
import os
import socket
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, cast

import structlog
import uvloop

from dtr.asgi.connection_rules import group_of
from dtr.asgi.peers import PeerTable
from dtr.server.balancers import Balancers
from dtr.server.logs import configure_logging
from dtr.server.open_files import most_connections
from dtr.server.parent import leave_with_parent
from dtr.server.proxy_protocol import MOST_BYTES, ProxyHeadError, parse_head
from dtr.server.settings import ListenAddress, Settings
from dtr.server.source_ports import SourcePorts

_LOG = structlog.get_logger()
_BACKLOG: Final = 2048
_CONNECT_SECONDS: Final = 5.0
_MOST_PORTS: Final = 16
_LINGER_SECONDS: Final = 1.0
_HANDSHAKE: Final = 0x16
_BUFFERED_BYTES: Final = 256 << 10
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_SENTENCE: Final = b"This port speaks HTTPS, and the request was plain HTTP. Use https://.\n"
_PLAIN_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_SENTENCE), _SENTENCE)
)


def front_host(listen: ListenAddress) -> str:
    """Return the address of this machine that the web workers can be reached at, and from."""
    return _ANYWHERE.get(listen.host, listen.host)


def listen_for_balancers(listen: ListenAddress) -> socket.socket:
    """Return a socket that listens; connections wait in it while the front is started again."""
    return socket.create_server(
        (listen.host, listen.port),
        family=socket.AF_INET6 if ":" in listen.host else socket.AF_INET,
        backlog=_BACKLOG,
        dualstack_ipv6=listen.host == "::" and socket.has_dualstack_ipv6(),
    )


class Front:
    """Takes balancers' connections, and nobody else's.

    Bounds: a head must be whole, and the client's first byte be there, within
    `server.header_read_seconds` each of the other; 256 KiB of each direction are buffered; there
    are at most as many connections as the web workers take, and where there are, the one gives way
    whose client has said nothing for the longest. Of one client's address, as many may say nothing
    as the web workers take of it together. A client that does not take what
    is buffered for it loses its connection in the time that the slowest one needs: the web worker
    may be done with it, and is not heard while its client is waited for.
    """

    def __init__(
        self, settings: Settings, table: Path, listening: socket.socket, *, is_tls: bool
    ) -> None:
        server = settings.server
        self.is_tls = is_tls
        self.head_seconds = server.header_read_seconds
        least = server.least_bytes_per_second
        rate_seconds = _BUFFERED_BYTES / least if least else float("inf")
        self.take_seconds = server.body_idle_seconds + rate_seconds
        self.host = front_host(server.listen)
        self.port = server.listen.port
        self.ports = SourcePorts(self.host)
        most = server.connections * (server.workers or os.cpu_count() or 1)
        self._most = most_connections(2 * most) // 2  # each of them has two sockets here
        self._listening = listening
        self._table_path = table
        self._log = settings.log
        self._balancers = Balancers(server.balancers, settings.cluster.balancers_file)
        self._count = 0
        self._most_of_one = server.connections_per_address * (server.workers or os.cpu_count() or 1)
        self._silent: dict[_Inbound, None] = {}
        self._silent_of: dict[str, dict[_Inbound, None]] = {}
        self._said_at = float("-inf")
        self.table: PeerTable

    def run(self) -> None:
        """Serve until SIGTERM; the body of the front's process."""
        configure_logging(self._log.format, self._log.level)
        leave_with_parent()
        uvloop.run(self.serve())

    async def serve(self) -> None:
        """Serve until cancelled."""
        self.table = PeerTable(self._table_path, self.host, is_writer=True)
        self.table.clear()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Inbound(self), sock=self._listening.dup())
        async with server:
            await self._balancers.follow()

    def admits(self, address: str) -> bool:
        """Count a connection in, if it is a balancer's and there is room, or room can be made."""
        if not self._balancers.include(address):
            self.refuse(address, "its address is no balancer's")
            return False
        if self._count >= self._most:
            oldest = next(iter(self._silent), None)
            if oldest is None:
                self.refuse(address, "there are too many connections")
                return False
            oldest.give_up()
        self._count += 1
        return True

    def note_silent(self, connection: "_Inbound") -> None:
        """Note that nothing for a web worker has come yet: whoever is silent may give way."""
        self._silent[connection] = None

    def note_client(self, connection: "_Inbound", client: str) -> None:
        """Note whose a silent connection is; with too many of one address, the oldest gives way."""
        if not self._most_of_one or self._balancers.include(client):
            return
        silent = self._silent_of.setdefault(group_of(client), {})
        silent[connection] = None
        if len(silent) > self._most_of_one:
            next(iter(silent)).give_up()

    def note_begun(self, connection: "_Inbound", client: str | None) -> None:
        """Note that it is silent no more."""
        self._silent.pop(connection, None)
        if client is None:
            return
        group = group_of(client)
        silent = self._silent_of.get(group, {})
        silent.pop(connection, None)
        if not silent:
            self._silent_of.pop(group, None)

    def refuse(self, address: str, reason: str) -> None:
        """Log a refused connection."""
        self.warn("connection refused", address=address, reason=reason)

    def warn(self, message: str, **facts: str) -> None:
        """Log what became of a connection; no more than one a second, however many there are."""
        now = time.monotonic()
        if now - self._said_at >= 1:
            self._said_at = now
            _LOG.warning(message, **facts)

    def forget(self, port: int) -> None:
        """Forget whose connection came from a port: it has ended."""
        self.table.remove(port)
        self.ports.release(port)

    def leave(self) -> None:
        """Count a connection out."""
        self._count -= 1


class _Side(asyncio.Protocol):
    """One side of a connection; what it receives, the other side sends."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self.has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, and bound what it buffers."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_BUFFERED_BYTES)

    def data_received(self, data: bytes) -> None:
        """Pass on what came."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Pass the end on; the other direction may go on."""
        self.has_ended = True
        if self.other is None or self.other.transport is None:
            return False
        with suppress(OSError, RuntimeError):
            self.other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        """Read no more from the other side, since this one does not take it."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read from the other side again."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """End the other side, too, after what is buffered."""
        other, self.other, self.transport = self.other, None, None
        if other is None or other.transport is None:
            return
        other.other = None
        if error is None:
            other.transport.close()
        else:
            other.transport.abort()


class _Outbound(_Side):
    """The connection to a web worker, from a port that says whose it is."""

    def __init__(self, front: Front, port: int) -> None:
        super().__init__()
        self._front = front
        self._port = port

    def eof_received(self) -> bool:
        """Pass the end on: once the web worker is done, so is the connection."""
        goes_on = super().eof_received()
        if isinstance(self.other, _Inbound):
            self.other.finish()
        return goes_on

    def connection_lost(self, error: Exception | None) -> None:
        """End the other side, too, after what is buffered."""
        self._front.forget(self._port)
        super().connection_lost(error)


class _Inbound(_Side):
    """A balancer's connection: its head first, then bytes for a web worker."""

    def __init__(self, front: Front) -> None:
        super().__init__()
        self._front = front
        self._received = b""
        self._client: str | None = None
        self._balancer = ""
        self._is_counted = False
        self._is_answered = False
        self._timer: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, and bound what it buffers."""
        super().connection_made(transport)
        self._balancer = transport.get_extra_info("peername")[0]
        self._is_counted = self._front.admits(self._balancer)
        if self._is_counted:
            self._front.note_silent(self)
            self._wait()
        elif self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Pass on what came."""
        if self.other is not None:
            super().data_received(data)
            return
        if self._is_answered or self.transport is None:
            return  # nobody will read it: it is not kept
        self._received += data
        if self._connecting is not None:
            return
        if self._client is None and not self._read_head():
            return
        if self._received:
            self._begin()

    def eof_received(self) -> bool:
        """Pass the end on; the other direction may go on."""
        goes_on = super().eof_received()
        if self.other is not None and self.other.has_ended:
            self.finish()
        return goes_on

    def finish(self) -> None:
        """End both sides once all is sent: at once where the client ended, too, or in a second.

        A connection that is closed on a client that still sends is reset, and the client may then
        lose the end of the answer.
        """
        deadline = time.monotonic() + self._front.take_seconds
        if self.has_ended:
            self._end(deadline)
        else:
            self._linger(deadline)

    def pause_writing(self) -> None:
        """Read no more from the web worker, for as long as the slowest client may take."""
        super().pause_writing()
        if self._front.take_seconds < float("inf"):
            loop = asyncio.get_running_loop()
            self._taking = loop.call_later(self._front.take_seconds, self.give_up)

    def resume_writing(self) -> None:
        """Read from the web worker again."""
        if self._taking is not None:
            self._taking.cancel()
        super().resume_writing()

    def give_up(self) -> None:
        """Break the connection off."""
        self._front.note_begun(self, self._client)
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """End the other side, too, after what is buffered."""
        self._front.note_begun(self, self._client)
        for timer in (self._timer, self._taking):
            if timer is not None:
                timer.cancel()
        if self._is_counted:
            self._front.leave()
        super().connection_lost(error)

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._front.head_seconds, self.give_up)

    def _end(self, deadline: float) -> None:
        """Close once nothing is left to send."""
        if self.transport is None:
            return
        if self.transport.get_write_buffer_size() == 0:
            self.transport.close()
        elif time.monotonic() >= deadline:
            self.give_up()
        else:
            self._linger(deadline)

    def _linger(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LINGER_SECONDS, self._end, deadline)

    def _read_head(self) -> bool:
        """Take the head away; False where it is not whole yet, or none."""
        try:
            head = parse_head(self._received[:MOST_BYTES])
        except ProxyHeadError as error:
            self._front.refuse(self._balancer, str(error))
            self.give_up()
            return False
        if head is None:
            return False
        self._client = head.client or self._balancer.partition("%")[0]
        self._received = self._received[head.size :]
        self._front.note_client(self, self._client)
        self._wait()
        return True

    def _begin(self) -> None:
        """Pass the client on, whose first byte is here."""
        self._front.note_begun(self, self._client)
        if self._timer is not None:
            self._timer.cancel()
        if self.transport is None:
            return
        if self._front.is_tls and self._received[0] != _HANDSHAKE:
            self.transport.write(_PLAIN_ANSWER)
            self.transport.write_eof()
            # What the client still sends would otherwise reset the connection before it reads.
            self._timer = asyncio.get_running_loop().call_later(_LINGER_SECONDS, self.give_up)
            self._is_answered = True
            return
        self.transport.pause_reading()
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        front = self._front
        try:
            outbound = await self._outbound()
        except (OSError, TimeoutError) as error:
            if not isinstance(error, ConnectionResetError):
                front.warn("no web worker takes a balancer's connection", error=str(error))
            self.give_up()
            return
        self._join(outbound)

    async def _outbound(self) -> "_Outbound":
        """Connect to a web worker, from a port that says whose connection it is.

        Raises:
            OSError, TimeoutError: none takes it, or the client has gone.

        """
        front, loop = self._front, asyncio.get_running_loop()
        for _ in range(_MOST_PORTS):
            connection, port = front.ports.bound()
            try:
                front.table.add(port, self._client or self._balancer)
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await loop.sock_connect(connection, (front.host, front.port))
                if self.transport is None:
                    raise ConnectionResetError("the client went away")  # noqa: TRY301
                made = partial(_Outbound, front, port)
                _, outbound = await loop.create_connection(made, sock=connection)
            except BaseException as error:
                connection.close()
                front.forget(port)
                if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
                    continue  # another connection of this port has not quite ended
                raise
            return outbound
        raise OSError(errno.EADDRNOTAVAIL, "no port is free")

    def _join(self, outbound: "_Outbound") -> None:
        if self.transport is None or outbound.transport is None:
            if outbound.transport is not None:
                outbound.transport.abort()
            self.give_up()
            return
        self.other, outbound.other = outbound, self
        outbound.transport.write(self._received)
        self._received = b""
        self.transport.resume_reading()
