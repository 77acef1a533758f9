"""Routes about the server itself: is it well, what does it count, whom does it trust."""

import html
from pathlib import Path
from typing import Final

from dtr.asgi import Endpoint, Request, Response, Route
from dtr.database import Database
from dtr.jobs import records as jobs
from dtr.model.access import ADMINISTRATOR, OPEN, OPERATOR
from dtr.model.errors import RouteUnknownError, UnavailableError
from dtr.registry import records
from dtr.registry.read_only import ReadOnly
from dtr.registry.records.read_only import read_only_mode
from dtr.server.cluster_status import ClusterStatus
from dtr.server.health import Health
from dtr.server.metrics import Metrics

_METRICS_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_HTML_TYPE: Final = b"text/html; charset=utf-8"
_WELCOME: Final = """This is a container registry.
Log in and push with docker, podman, skopeo or any OCI client; the API is at /v2/.
"""


class System:
    """`/_ping`, `/health` and the like, `/metrics`, `/ca`, and the cluster's status."""

    def __init__(
        self,
        database: Database,
        health: Health,
        status: ClusterStatus,
        metrics: Metrics,
        read_only: ReadOnly,
        *,
        ca_certificate: Path | None = None,
    ) -> None:
        self._database = database
        self._health = health
        self._status = status
        self._metrics = metrics
        self._read_only = read_only
        self._ca_certificate = ca_certificate

    def routes(self) -> list[Route]:
        """Return the routes; health tells anybody no more than which component fails."""
        return [
            Route("/", {"GET": Endpoint(self.welcome, OPEN)}),
            Route("/_ping", {"GET": Endpoint(self.ping, OPEN)}),
            Route("/health", {"GET": Endpoint(self.health, OPEN)}),
            Route("/load_balancer_status", {"GET": Endpoint(self.load_balancer_status, OPEN)}),
            Route(
                "/api/v0/meta/cluster_status",
                {"GET": Endpoint(self.cluster_status, ADMINISTRATOR)},
            ),
            Route("/metrics", {"GET": Endpoint(self.metrics, OPERATOR)}),
            Route("/ca", {"GET": Endpoint(self.ca, OPEN)}),
        ]

    async def welcome(self, _request: Request) -> Response:
        """Say what this is to whoever comes with a browser."""
        return Response.text(_WELCOME)

    async def ping(self, _request: Request) -> Response:
        """Answer that this process serves: 200, or 503 while balancers shall leave it alone.

        What all servers share is not asked: a balancer would take them all out at once, though
        they would only have let their clients wait.
        """
        return _healthy("draining" if self._health.is_draining else "")

    async def health(self, _request: Request) -> Response:
        """Answer 200, or 503 naming the component that fails, in the original's shape.

        A registry that can only be pulled from says so and is healthy: a balancer that took it out
        would stop the pulls, too.
        """
        verdict = await self._health.verdict()
        return _healthy(
            verdict.problem, is_healthy=verdict.is_healthy, is_read_only=self._read_only.is_on
        )

    async def load_balancer_status(self, _request: Request) -> Response:
        """Answer the same as `health`, for people: a table of all components."""
        verdict = await self._health.verdict()
        components = await self._health.components()
        rows = "".join(
            f"<tr><td>{name}</td><td>{html.escape(problem or 'OK')}</td></tr>"
            for name, problem in components.items()
        )
        whole = "OK" if verdict.is_healthy else html.escape(verdict.problem)
        page = (
            '<!DOCTYPE html>\n<html lang="en"><title>Status of this replica</title>'
            f"<table><tr><th>Component</th><th>Status</th></tr>{rows}"
            f"<tr><td>replica</td><td>{whole}</td></tr>"
            "</table></html>\n"
        )
        status = 200 if verdict.is_healthy else 503
        return Response(status, headers={b"content-type": _HTML_TYPE}, body=page.encode())

    async def cluster_status(self, _request: Request) -> Response:
        """Answer what is known of all replicas."""
        return Response.json(await self._status.document())

    async def metrics(self, _request: Request) -> Response:
        """Answer all processes' numbers."""
        opened, empty = await self._database.read(records.count_all_uploads)
        jobs_open = await self._database.read(jobs.count_open)
        body = self._metrics.exposition(
            uploads_open=opened,
            uploads_empty=empty,
            jobs_open=jobs_open,
            is_read_only=await self._database.read(read_only_mode) is not None,
        )
        return Response(headers={b"content-type": _METRICS_TYPE}, body=body)

    async def ca(self, _request: Request) -> Response:
        """Answer the certificate authority that signed this server's certificate."""
        if self._ca_certificate is None:
            raise RouteUnknownError(
                "this server has no CA certificate: it has no TLS, or server.tls_ca is not set"
            )
        try:
            body = self._ca_certificate.read_bytes()
        except OSError as error:
            raise UnavailableError(f"the authority cannot be read: {error.strerror}") from None
        return Response(headers={b"content-type": b"application/x-pem-file"}, body=body)


def _healthy(
    problem: str, *, is_healthy: bool | None = None, is_read_only: bool = False
) -> Response:
    """Answer in the original's shape; without `is_healthy` any problem is one too many."""
    is_healthy = not problem if is_healthy is None else is_healthy
    document: dict[str, object] = {"Error": problem, "Healthy": is_healthy}
    if is_read_only:
        document["ReadOnly"] = True
    return Response.json(document, 200 if is_healthy else 503)
