"""The deployments that the HTTP behaviour suite runs against."""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import pytest
from tests.http.asgi import ask
from tests.support.server import RunningServer

from dtr.database import Database
from dtr.server.app import build_application
from dtr.server.application import Application
from dtr.server.drivers import Drivers
from dtr.server.metrics import Metrics
from dtr.server.settings import Settings
from dtr.storage import BlobStore, FilesystemBlobStore
from dtr.storage.memory import MemoryBlobStore
from dtr.testing.registry import Administration, ManualClock, open_state

MOST_REAL_SECONDS = 2.5


class Target(Protocol):
    """A registry under test, however it is deployed, with the accounts of `dtr.testing`."""

    @property
    def url(self) -> str:
        """The address without a slash at its end."""
        ...

    @property
    def administration(self) -> Administration:
        """What is done to it from the command line."""
        ...

    @property
    def processes(self) -> int:
        """How many processes may answer a request."""
        ...

    def transport(self) -> httpx.AsyncBaseTransport:
        """Return a way to it for one test; no two requests need meet the same process."""
        ...

    async def wait(self, seconds: float) -> None:
        """Let time pass, or skip the test where that would take too long."""
        ...

    async def cut(self, method: str, path: str, authorization: str, body: bytes) -> None:
        """Send a request that breaks off after `body`; the registry soon notices."""
        ...


class InProcess:
    """Applications on one state, asked in turns, as if a balancer stood before processes."""

    url = "http://registry.test"

    def __init__(self, applications: list[Application], administration: Administration) -> None:
        self.applications = applications
        self.administration = administration
        self.clock = ManualClock()

    @classmethod
    def open(
        cls,
        directory: Path,
        stores: list[BlobStore] | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        ca_certificate: Path | None = None,
        database_url: str = "",
        open_database: Callable[[], Database] | None = None,
    ) -> "InProcess":
        """Open one application for each of the stores, which share what they keep."""
        clock = ManualClock()
        parsed = Settings.model_validate({"log": {"access": False}, **(settings or {})})
        applications = []
        for store in stores or [MemoryBlobStore()]:
            state = open_state(
                directory,
                store=store,
                clock=clock,
                database_url=database_url,
                database=open_database() if open_database else None,
            )
            drivers = Drivers(state.database, state.store)
            applications.append(
                build_application(
                    parsed, drivers, Metrics(), ca_certificate=ca_certificate, clock=clock
                )
            )
        target = cls(applications, state.administration)
        target.clock = clock
        return target

    @classmethod
    def open_files(
        cls, directory: Path, settings: Mapping[str, Any] | None = None, *, database_url: str = ""
    ) -> "InProcess":
        """Open two applications on one directory: what two processes of one server share."""
        stores: list[BlobStore] = [FilesystemBlobStore(directory) for _ in range(2)]
        return cls.open(directory, stores, settings, database_url=database_url)

    @property
    def processes(self) -> int:
        """As many as there are applications."""
        return len(self.applications)

    @property
    def application(self) -> Application:
        """The first application."""
        return self.applications[0]

    def transport(self) -> httpx.AsyncBaseTransport:
        """Return a transport that asks the applications in turns."""
        return _Turns(self.applications)

    async def wait(self, seconds: float) -> None:
        """Move the clock."""
        self.clock.advance(seconds)

    async def cut(self, method: str, path: str, authorization: str, body: bytes) -> None:
        """Send a request that breaks off after `body`."""
        path, _, query = path.partition("?")
        headers = [(b"authorization", authorization.encode())]
        await ask(
            self.application,
            method,
            path,
            query=query.encode(),
            headers=headers,
            body=[body],
            is_cut=True,
        )

    async def close(self) -> None:
        """Close the applications and their drivers."""
        for application in self.applications:
            await application.close()


class _Turns(httpx.AsyncBaseTransport):
    def __init__(self, applications: list[Application]) -> None:
        self._turns = itertools.cycle([httpx.ASGITransport(each) for each in applications])

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await next(self._turns).handle_async_request(request)


class Deployed:
    """Real server processes on this machine; every request is a connection of its own.

    `server_url` is one of them, where `url` is a balancer before them.
    """

    def __init__(
        self, url: str, administration: Administration, *, processes: int, server_url: str = ""
    ) -> None:
        self.url = url
        self.administration = administration
        self.processes = processes
        self._server_url = server_url or url

    def transport(self) -> httpx.AsyncBaseTransport:
        """Return a transport that keeps no connection, so that any process gets any request."""
        limits = httpx.Limits(max_keepalive_connections=0)
        return httpx.AsyncHTTPTransport(verify=False, limits=limits, trust_env=False)

    async def wait(self, seconds: float) -> None:
        """Sleep a little; nothing moves the clock of a real server."""
        if seconds > MOST_REAL_SECONDS:
            pytest.skip(f"{seconds:g} seconds pass only where a test owns the clock")
        await asyncio.sleep(seconds + 0.1)

    async def cut(self, method: str, path: str, authorization: str, body: bytes) -> None:
        """Announce twice as much as is sent, and close the connection.

        Past the balancer, which drops what it has not passed on when its client is gone.
        """
        address = urlsplit(self._server_url)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Authorization: {authorization}\r\nContent-Length: {2 * len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        writer.close()
        await writer.wait_closed()


class Node(Deployed):
    """One server with two workers."""

    def __init__(self, server: RunningServer, administration: Administration) -> None:
        super().__init__(server.url, administration, processes=2)
        self.server = server
