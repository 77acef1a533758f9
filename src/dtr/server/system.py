"""Routes about the server itself: is it well, what does it count, whom does it trust."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from dtr.asgi import Endpoint, Request, Response, Route
from dtr.database import Database, stale_reads
from dtr.jobs import records as jobs
from dtr.model.access import OPEN, OPERATOR
from dtr.model.errors import RegistryError, RouteUnknownError
from dtr.registry import records
from dtr.server.metrics import Metrics
from dtr.storage import BlobStore

_HEALTH_SECONDS = 1.0
_TIMEOUT_SECONDS = 5.0
_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_READ_ONLY = "metadata: no primary answers; pulls go on, pushes wait"
_WELCOME = """This is a container registry.
Log in and push with docker, podman, skopeo or any OCI client; the API is at /v2/.
"""


class System:
    """`/_ping`, `/health`, `/metrics`, `/ca`."""

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        metrics: Metrics,
        *,
        ca_certificate: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._store = store
        self._metrics = metrics
        self._ca_certificate = ca_certificate
        self._clock = clock
        self._checked_at = float("-inf")
        self._problem = ""
        self._is_read_only = False
        self._checking = asyncio.Lock()

    def routes(self) -> list[Route]:
        """Return the routes; health tells anybody no more than which component fails."""
        return [
            Route("/", {"GET": Endpoint(self.welcome, OPEN)}),
            Route("/_ping", {"GET": Endpoint(self.ping, OPEN)}),
            Route("/health", {"GET": Endpoint(self.health, OPEN)}),
            Route("/metrics", {"GET": Endpoint(self.metrics, OPERATOR)}),
            Route("/ca", {"GET": Endpoint(self.ca, OPEN)}),
        ]

    async def welcome(self, _request: Request) -> Response:
        """Say what this is to whoever comes with a browser."""
        return Response.text(_WELCOME)

    async def ping(self, _request: Request) -> Response:
        """Answer that this process serves."""
        return Response.json({"Error": "", "Healthy": True})

    async def health(self, _request: Request) -> Response:
        """Answer 200, or 503 naming the component that fails, in the original's shape.

        A registry that can only be pulled from says so and is healthy: a balancer that took it out
        would stop the pulls, too.
        """
        async with self._checking:
            if self._clock() - self._checked_at >= _HEALTH_SECONDS:
                self._problem = await self._check()
                self._is_read_only = not self._problem and stale_reads.get()
                self._checked_at = self._clock()
        healthy = not self._problem
        problem = _READ_ONLY if self._is_read_only else self._problem
        return Response.json({"Error": problem, "Healthy": healthy}, 200 if healthy else 503)

    async def metrics(self, _request: Request) -> Response:
        """Answer all processes' numbers."""
        uploads_open = await self._database.read(records.count_all_uploads)
        jobs_open = await self._database.read(jobs.count_open)
        body = self._metrics.exposition(uploads_open=uploads_open, jobs_open=jobs_open)
        return Response(headers={b"content-type": _METRICS_TYPE}, body=body)

    async def ca(self, _request: Request) -> Response:
        """Answer the certificate authority that this server made for itself."""
        if self._ca_certificate is None:
            raise RouteUnknownError("this server did not make its own certificate authority")
        body = self._ca_certificate.read_bytes()
        return Response(headers={b"content-type": b"application/x-pem-file"}, body=body)

    async def _check(self) -> str:
        checks = (("metadata", self._check_metadata), ("storage", self._store.check))
        for component, check in checks:
            try:
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    await check()
            except (RegistryError, TimeoutError) as error:
                return f"{component}: {str(error) or 'no answer'}"
        return ""

    async def _check_metadata(self) -> None:
        await self._database.read(records.count_all_uploads)
