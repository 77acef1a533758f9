"""The network test as one node carries it out: it listens where it is told, and connects."""

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Final

import structlog

from dtr.model.failures import reason_of
from dtr.ucp.model import Probe, ProbeReport

_LOG = structlog.get_logger()
_PORTS: Final = range(1, 65536)
_MAX_PORTS: Final = 16
_MAX_ADDRESSES: Final = 64
_CONNECT_SECONDS: Final = 5
_PAUSE_SECONDS: Final = 0.25
_LISTEN_SECONDS: Final = 120


class Prober:
    """Carries out each probe once; its report is kept until the next probe.

    Ports stay open until the probe is withdrawn, for two minutes at most: the other nodes come to
    connect in their own time. For the same reason one that is refused tries again.
    """

    def __init__(
        self,
        *,
        connect_seconds: float = _CONNECT_SECONDS,
        listen_seconds: float = _LISTEN_SECONDS,
    ) -> None:
        self.report: ProbeReport | None = None
        self._connect_seconds = connect_seconds
        self._listen_seconds = listen_seconds
        self._id = ""
        self._task: asyncio.Task[None] | None = None

    def want(self, probe: Probe | None) -> None:
        """Begin a probe that was not begun yet; end one that is wanted no more."""
        if probe is None:
            self._end()
        elif probe.id != self._id:
            self._end()
            self._id = probe.id
            self._task = asyncio.create_task(self._carry_out(probe), name="probe")

    async def close(self) -> None:
        """Close all ports."""
        task = self._task
        self._end()
        if task is not None:
            await asyncio.wait({task})

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _carry_out(self, probe: Probe) -> None:
        ports, addresses = probe.listen[:_MAX_PORTS], probe.connect[:_MAX_ADDRESSES]
        async with AsyncExitStack() as open_ports:
            listening = {port: await _listen(port, open_ports) for port in ports}
            answers = await asyncio.gather(*(self._connect(address) for address in addresses))
            connected = dict(zip(addresses, answers, strict=True))
            self.report = ProbeReport(id=probe.id, listening=listening, connected=connected)
            _LOG.info("a network test was carried out", probe=probe.id)
            await asyncio.sleep(self._listen_seconds)

    async def _connect(self, address: str) -> str:
        """Try until it is connected or time is over; return what is wrong."""
        host, _, port = address.rpartition(":")
        is_number = port.isascii() and port.isdigit()
        if not host or not is_number or int(port) not in _PORTS:
            return f"{address} is not ADDRESS:PORT"
        problem = f"{address} did not answer within {self._connect_seconds:g} s"
        with suppress(TimeoutError):
            async with asyncio.timeout(self._connect_seconds):
                while True:
                    try:
                        await _connect_once(host.strip("[]"), int(port))
                    except OSError as error:
                        problem = f"{address} cannot be reached: {reason_of(error)}"
                        await asyncio.sleep(_PAUSE_SECONDS)
                    else:
                        return ""
        return problem


async def _connect_once(host: str, port: int) -> None:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _listen(port: int, open_ports: AsyncExitStack) -> str:
    """Listen until the stack is unwound; return what is wrong."""

    def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    if port not in _PORTS:  # the resolver would take it modulo 65536
        return f"port {port} cannot be listened on: there is no such port"
    try:
        server = await asyncio.start_server(accept, None, port)
    except OSError as error:
        return f"port {port} cannot be listened on: {reason_of(error)}"
    open_ports.callback(server.close)
    return ""
