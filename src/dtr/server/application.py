"""The ASGI application: find the route, pass the gate, run the handler, answer, count, log."""

import asyncio
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from http import HTTPStatus

import structlog

from dtr.accounts.gate import Gate
from dtr.asgi import ClientDisconnectError, Request, Response, Route, Router
from dtr.asgi.conditions import check_without_etag
from dtr.asgi.connection_rules import Activity
from dtr.asgi.connections import Connections
from dtr.asgi.forwarded import Proxies
from dtr.asgi.held import HeldBytes
from dtr.asgi.pace import BodyLimits
from dtr.asgi.peers import PeerTable
from dtr.asgi.request import Receive, Scope, Send
from dtr.asgi.wellformed import check_wellformed
from dtr.database import stale_reads
from dtr.model.errors import (
    AddressTooLongError,
    HeaderTooLargeError,
    ReadOnlyError,
    RegistryError,
    UnsupportedError,
)
from dtr.server.errors import broken_off_response, error_response, unexpected_response
from dtr.server.logs import AccessLog
from dtr.server.metrics import Metrics
from dtr.server.parent import end_in_time
from dtr.server.reach import Reach

_LOG = structlog.get_logger()
_FLUSH_SECONDS = 0.2
_CLIENT_CLOSED_REQUEST = 499
_UNROUTED = "(none)"
_USUAL_LIMITS = BodyLimits()
_ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_METHODS = frozenset(_ALL_METHODS)
_READS = frozenset({"GET", "HEAD"})
# Older docker clients believe that this is a registry only if the 401 says so, too.
_API_VERSION = (b"docker-distribution-api-version", b"registry/2.0")
# What users pushed is never to be taken by a browser for a page of ours.
_STALE = (b"warning", b'110 - "Response is Stale"')  # RFC 7234, section 5.5.1
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")


class Application:
    """One process's share of the registry.

    `background` runs beside the requests: when an error ends one of these, `end` is called, so
    that a whole process takes this one's place. `closers` run at the end of the process, in order.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        gate: Gate,
        metrics: Metrics,
        proxies: Proxies,
        *,
        access_log: AccessLog | None = None,
        body_limits: BodyLimits = _USUAL_LIMITS,
        held: HeldBytes | None = None,
        connections: Connections | None = None,
        peers: PeerTable | None = None,
        reach: Reach | None = None,
        url_bytes: int = 8192,
        header_bytes: int = 32768,
        background: Sequence[Callable[[], Coroutine[object, object, None]]] = (),
        end: Callable[[], None] = end_in_time,
        closers: Sequence[Callable[[], Awaitable[object]]] = (),
    ) -> None:
        self.router = Router(routes)
        self._gate = gate
        self._metrics = metrics
        self._proxies = proxies
        self._access_log = access_log
        self._body_limits = body_limits
        self._held = held
        self._connections = connections
        self._peers = peers
        self._reach = None if reach is None or reach.is_plain else reach
        self._url_bytes = url_bytes
        self._header_bytes = header_bytes
        self._background = background
        self._end = end
        self._is_closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._closers = closers
        self._process_id = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._flush_is_due = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http":
            activity = self._follow(scope)
            try:
                await self._http(scope, receive, send)
            finally:
                activity.active -= 1
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    def _follow(self, scope: Scope) -> Activity:
        """Tell whose the connection is, and say that it has a request to who looks after it."""
        client = scope.get("client")
        if self._connections is None or not client:
            return Activity()
        if self._peers is not None:
            host, port = client
            scope["client"] = self._peers.client(host, int(port)), port
        return self._connections.begin(client)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        request_id = f"{self._process_id}{next(self._numbers):08x}"
        request = Request(
            scope, receive, request_id=request_id, limits=self._body_limits, held=self._held
        )
        stale_reads.set(False)
        try:
            route, response = await self._answer(request)
        finally:
            request.release()
        if stale_reads.get():
            response.headers.append(_STALE)
        response.headers += ((b"x-request-id", request_id.encode()), _NO_SNIFFING)
        if request.path.startswith("/v2"):
            response.headers.append(_API_VERSION)
        if self._reach is not None:
            self._reach.leave(request, response)
        status = response.status
        try:
            await response.send(scope, send)
        except Exception as error:
            # The head is out: all that is left is to cut the connection (design 5.10).
            _LOG.warning("answer cut short", request_id=request_id, error=repr(error))
            raise
        finally:
            self._record(request, response, route, time.perf_counter() - started)
        if status >= HTTPStatus.BAD_REQUEST:
            await request.discard_rest()

    async def _answer(self, request: Request) -> tuple[str, Response]:
        """Return the route's template and the response, which may say an error."""
        label = _UNROUTED
        try:
            if len(request.path) + len(request.scope["query_string"]) > self._url_bytes:
                raise AddressTooLongError(limit=self._url_bytes)  # noqa: TRY301
            if max(map(len, request.headers.values()), default=0) > self._header_bytes:
                raise HeaderTooLargeError(limit=self._header_bytes)  # noqa: TRY301
            check_wellformed(request)
            if self._reach is not None:
                self._reach.enter(request)
            if request.method == "OPTIONS":
                return label, self._options(request)
            route, request.parameters = self.router.find(request.path)
            label = route.template
            endpoint = route.endpoint(request.method)
            await self._gate.admit(request, endpoint.access)
            if not endpoint.has_etags and request.method not in _READS:
                check_without_etag(request)
            return label, await endpoint.handler(request)
        except RegistryError as error:
            response = error_response(error, request)
            if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(
                error, UnsupportedError | ReadOnlyError
            ):
                _LOG.error(
                    "request refused", request_id=request.id, error=str(error), **error.detail
                )
            return label, response
        except ClientDisconnectError:
            request.is_broken_off = True
            return label, broken_off_response()
        except Exception:  # noqa: BLE001 - the outermost loop of a request
            _LOG.exception("request failed", request_id=request.id, path=request.path[:500])
            return label, unexpected_response(request)

    def _options(self, request: Request) -> Response:
        """Say which methods a path has (RFC 9110 9.3.7); of the server, those of all its paths."""
        allowed: Sequence[str] = _ALL_METHODS
        if request.path not in {"*", "/"}:
            allowed = self.router.find(request.path)[0].methods
        headers = {b"allow": ", ".join((*allowed, "OPTIONS")).encode()}
        return Response(HTTPStatus.NO_CONTENT, headers=headers)

    def _record(self, request: Request, response: Response, route: str, seconds: float) -> None:
        status = response.status
        if request.is_broken_off and b"transfer-encoding" not in request.headers:
            status = _CLIENT_CLOSED_REQUEST  # a plain body breaks off only because its client left
        sent = 0 if request.method == "HEAD" else response.length
        # A series for whatever word a client sends would fill the memory.
        method = request.method if request.method in _METHODS else "OTHER"
        self._metrics.request(
            route,
            method,
            status,
            seconds=seconds,
            received=request.body_bytes,
            sent=sent,
        )
        if self._access_log is not None:
            self._access_log.write(
                request.method,
                request.path,
                status,
                sent,
                seconds,
                request.id,
                self._proxies.client(request),
                request.principal.name,
            )
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        self._metrics.flush()
        if self._access_log is not None:
            self._access_log.flush()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        for run in self._background:
            task = asyncio.create_task(run(), name=run.__qualname__)
            task.add_done_callback(self._ended)
            self._tasks.append(task)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})

    def _ended(self, task: asyncio.Task[None]) -> None:
        """End the process whose background work is not whole any more."""
        if self._is_closing or task.cancelled() or task.exception() is None:
            return
        _LOG.error(
            "background work failed; this process ends, and is started again",
            work=task.get_name(),
            exc_info=task.exception(),
        )
        self._end()

    async def close(self) -> None:
        """Write what is buffered and let go of files and threads."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._flush()
        for closer in self._closers:
            with suppress(RegistryError):
                await closer()
