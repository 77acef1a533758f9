"""Looks after the connections of this process from outside of the server that serves them.

The web server owns its sockets and knows one time limit. What it lacks is found where every
connection is: in the process's file descriptors, and in what the kernel counts for each of them.
Nothing here is on the way of a byte; a connection that is to end is shut down, and the server finds
it closed by its client.
"""

import asyncio
import errno
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import structlog

from dtr.asgi.connection_rules import (
    Activity,
    Connection,
    ConnectionLimits,
    Sample,
    excess,
    group_of,
)
from dtr.asgi.peers import PeerTable

_LOG = structlog.get_logger()
_DESCRIPTORS: Final = "/proc/self/fd"
# linux/tcp.h, struct tcp_info: how many segments are not acknowledged; the bytes that were
# acknowledged and received; how many wait to be sent.
_COUNTS: Final = struct.Struct("@24xI92xQQ8xI")
_LOOK_SECONDS: Final = 1.0
_HURRIED_SECONDS: Final = 0.25
_SAID_SECONDS: Final = 10.0
_SPARE_FILES: Final = 4
_ABORT: Final = struct.pack("ii", 1, 0)

Key = tuple[str, str]


class Connections:
    """Ends connections that are too slow or too many.

    The application says when a request of a connection begins and ends; all else is asked of the
    kernel, about once a second, on a thread. To ask takes a file, so that some are kept for it:
    those who hold all others open are the very ones to end.
    """

    def __init__(
        self,
        port: int,
        limits: ConnectionLimits,
        peers: PeerTable | None = None,
        is_exempt: Callable[[str], bool] = lambda _: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._port = port
        self._limits = limits
        self._peers = peers
        self._is_exempt = is_exempt
        self._clock = clock
        self._activities: dict[Key, Activity] = {}
        self._missing: set[Key] = set()
        self._known: dict[int, tuple[int, Connection | None]] = {}
        self._ended: dict[str, int] = {}
        self._spare: list[int] = []
        self._said_at = float("-inf")

    def __len__(self) -> int:
        """How many connections there were at the last look."""
        return sum(connection is not None for _, connection in self._known.values())

    def begin(self, key: Key) -> Activity:
        """Say that a request of this connection begins; `active` of the answer is to be lowered."""
        activity = self._activities.get(key)
        if activity is None:
            activity = self._activities[key] = Activity()
        activity.requests += 1
        activity.active += 1
        return activity

    @contextmanager
    def during(self, host: str, port: int) -> Iterator[None]:
        """Say that the client at this address has a request at work."""
        activity = self.begin((host.partition("%")[0], str(port)))
        try:
            yield
        finally:
            activity.active -= 1

    async def follow(self) -> None:
        """Look after the connections until cancelled."""
        self._reserve()
        try:
            while True:
                await asyncio.sleep(self._pause())
                with suppress(OSError):  # no file can be opened at the moment
                    await asyncio.to_thread(self.look)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the files that are kept for looking."""
        while self._spare:
            os.close(self._spare.pop())

    def _reserve(self) -> None:
        with suppress(OSError):
            while len(self._spare) < _SPARE_FILES:
                self._spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def _pause(self) -> float:
        is_crowded = len(self) > self._limits.most / 2
        usual = _HURRIED_SECONDS if is_crowded else _LOOK_SECONDS
        return min(usual, self._limits.head_seconds / 4, self._limits.idle_seconds / 4)

    def look(self) -> None:
        """Look at every connection once, and end those that are to end."""
        self.close()
        try:
            self._look()
        finally:
            self._reserve()

    def _look(self) -> None:
        now = self._clock()
        found: dict[int, tuple[int, Connection | None]] = {}
        for descriptor, inode in own_sockets():
            known = self._known.get(descriptor)
            if known is None or known[0] != inode:
                try:
                    known = inode, self._open(descriptor, now)
                except OSError:
                    continue  # next time
            found[descriptor] = known
            if known[1] is not None:
                self._judge(descriptor, inode, known[1], now)
        self._known = found
        living = {each: fd for fd, (_, each) in found.items() if each is not None}
        for connection, reason in list(excess(living, self._limits)):
            descriptor = living[connection]
            self._end(descriptor, found[descriptor][0], reason)
        self._forget({each.key for each in living})
        self._say(now)

    def _open(self, descriptor: int, now: float) -> Connection | None:
        """Return a connection to our port; None for every other socket.

        Raises:
            OSError: no file can be opened to find out.

        """
        try:
            with socket.socket(fileno=os.dup(descriptor)) as found:
                if found.family not in {socket.AF_INET, socket.AF_INET6}:
                    return None
                if found.type != socket.SOCK_STREAM or found.getsockname()[1] != self._port:
                    return None
                host, port = found.getpeername()[:2]
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                raise
            return None  # it is gone, or it listens
        client = host if self._peers is None else self._peers.client(host, port)
        key = host.partition("%")[0], str(port)
        is_exempt = self._is_exempt(client)
        return Connection(key, group_of(client), now, now, is_exempt=is_exempt)

    def _judge(self, descriptor: int, inode: int, connection: Connection, now: float) -> None:
        sample = _sample(descriptor)
        if sample is None:
            return
        activity = self._activities.get(connection.key) or Activity()
        reason = connection.judge(sample, activity, now, self._limits)
        if reason:
            self._end(descriptor, inode, reason)

    def _end(self, descriptor: int, inode: int, reason: str) -> None:
        """Shut a connection down; a copy of the descriptor cannot become another connection's."""
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as found:
            if os.fstat(found.fileno()).st_ino != inode:
                return
            # What was not read is not kept for whoever does not read it.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            found.shutdown(socket.SHUT_RDWR)
            self._ended[reason] = self._ended.get(reason, 0) + 1

    def _forget(self, living: set[Key]) -> None:
        # One that was accepted since the sockets were listed is missing once, and not twice.
        missing = {key for key in list(self._activities) if key not in living}
        for key in missing & self._missing:
            if not self._activities[key].active:
                del self._activities[key]
        self._missing = missing

    def _say(self, now: float) -> None:
        if self._ended and now - self._said_at >= _SAID_SECONDS:
            ended, self._ended, self._said_at = self._ended, {}, now
            for reason, count in ended.items():
                _LOG.warning("connections ended", reason=reason, count=count)


def own_sockets() -> list[tuple[int, int]]:
    """Return this process's sockets: descriptor and inode."""
    found = []
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - a Path for each would cost more
        with suppress(OSError):
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                found.append((int(name), status.st_ino))
    return found


def _sample(descriptor: int) -> Sample | None:
    """Return what the kernel counts for a connection; None where it is none any more."""
    try:
        found = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, fileno=descriptor)
    except OSError:
        return None
    try:
        answer = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _COUNTS.size)
    except OSError:
        return None
    finally:
        found.detach()  # the descriptor is the server's
    if len(answer) < _COUNTS.size:
        return None
    unacknowledged, acknowledged, received, waiting = _COUNTS.unpack(answer)
    return Sample(received, acknowledged, is_sending=bool(waiting or unacknowledged))
