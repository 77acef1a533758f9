"""A load generator for what wrk cannot do."""

import math
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.content import MANIFEST_TYPE
from benchmarks.failure import BenchmarkError
from benchmarks.wire import HOST, TIMEOUT_SECONDS, Address, head


@dataclass(frozen=True)
class Rate:
    """What a generator of many requests saw. Latencies in milliseconds."""

    per_second: float
    requests: int
    p50: float
    p99: float
    slowest: float
    p999: float = math.nan


@dataclass
class _Lane:
    """One connection of the hammer."""

    socket: socket.socket
    number: int
    began: float = 0.0
    got: int = 0
    wanted: int = 0
    start: bytearray = field(default_factory=bytearray)


class Hammer:
    """Repeats requests over kept-alive connections, closed loop, one thread.

    For what wrk cannot do: HEAD (it waits for a body), and running until something else ends.
    """

    def __init__(
        self, method: str, address: Address, headers: Mapping[str, str], paths: Sequence[str]
    ) -> None:
        sent = dict(headers) | {"Accept": MANIFEST_TYPE}
        host = f"{HOST}:{address.port}"
        self._requests = [head(method, path, host, sent) for path in paths]
        self._has_body = method != "HEAD"
        self._port = address.port
        self._latencies: list[float] = []

    def run(
        self, connections: int, running: Callable[[], bool], *, per_second: float = math.inf
    ) -> Rate:
        """Send requests until `running` says no: each lane at once again, or `per_second` in all.

        At a given pace the latency counts from when a request was due: one that has to wait
        because others are slow is slow itself.

        Raises:
            BenchmarkError: an answer was not 200, or a connection broke.
        """
        self._latencies = []
        pause = 1 / per_second
        with selectors.EpollSelector() as selector:
            idle = deque(self._open(selector, number) for number in range(connections))
            lanes = list(idle)
            due = begin = time.perf_counter()
            while running():
                now = time.perf_counter()
                while idle and due <= now:
                    self._send(idle.popleft(), due if pause else now)
                    due += pause
                for key, _ in selector.select(max(0.0, due - now) if idle else 1.0):
                    if self._receive(key.data):
                        idle.append(key.data)
            seconds = time.perf_counter() - begin
            for lane in lanes:
                lane.socket.close()
        return self._summary(seconds)

    def run_for(self, connections: int, seconds: float, *, per_second: float = math.inf) -> Rate:
        """Send requests for some seconds."""
        end = time.perf_counter() + seconds
        return self.run(connections, lambda: time.perf_counter() < end, per_second=per_second)

    def _open(self, selector: selectors.BaseSelector, number: int) -> _Lane:
        made = socket.create_connection((HOST, self._port), timeout=TIMEOUT_SECONDS)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
        lane = _Lane(made, number)
        selector.register(made, selectors.EVENT_READ, lane)
        return lane

    def _send(self, lane: _Lane, began: float) -> None:
        lane.number = (lane.number + 1) % len(self._requests)
        lane.began = began
        lane.socket.send(self._requests[lane.number])

    def _receive(self, lane: _Lane) -> bool:
        """Take what is there; return whether the answer is complete."""
        piece = lane.socket.recv(65536)
        if not piece:
            raise BenchmarkError("the contender closed a connection under load")
        lane.got += len(piece)
        if not lane.wanted:
            lane.start += piece
            lane.wanted = self._length(lane.start)
        if lane.wanted and lane.got >= lane.wanted:
            self._latencies.append(time.perf_counter() - lane.began)
            lane.got = lane.wanted = 0
            lane.start.clear()
            return True
        return False

    def _length(self, start: bytearray) -> int:
        """Return the length of the whole answer once its head is there, else 0."""
        end = start.find(b"\r\n\r\n")
        if end < 0:
            return 0
        if start[9:12] != b"200":
            raise BenchmarkError(f"under load: {bytes(start[:end])!r}")
        if not self._has_body:
            return end + 4
        lower = start[:end].lower()
        at = lower.find(b"\r\ncontent-length:")
        if at < 0:
            raise BenchmarkError("an answer has no Content-Length")
        return end + 4 + int(lower[at + 17 :].split(b"\r\n", 1)[0])

    def _summary(self, seconds: float) -> Rate:
        ordered = sorted(self._latencies)
        if not ordered:
            raise BenchmarkError("no request was answered")
        p50, p99, p999 = (
            ordered[math.ceil(len(ordered) * part) - 1] * 1e3 for part in (0.5, 0.99, 0.999)
        )
        return Rate(len(ordered) / seconds, len(ordered), p50, p99, ordered[-1] * 1e3, p999)
