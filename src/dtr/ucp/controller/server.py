"""The API as an aiohttp application: routes, access, bounds, and every error in one shape."""

import asyncio
import logging
import math
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import JsonValue, ValidationError

from dtr.asgi.conditions import Conditions
from dtr.asgi.connections import Connections
from dtr.model.addresses import canonical_address
from dtr.model.away import away_from_loop
from dtr.model.documents import JsonInvalidError, load_json
from dtr.model.errors import (
    InvalidError,
    PreconditionFailedError,
    TooManyRequestsError,
    UnavailableError,
)
from dtr.ucp import keys
from dtr.ucp.api import PREFIX, Access, ApiError, ApiRequest, ApiRoute
from dtr.ucp.authority import AuthorityError
from dtr.ucp.controller.access import Gate
from dtr.ucp.invalid import problems_of
from dtr.ucp.model import ClusterRecord
from dtr.ucp.store import Store

MAX_BODY_BYTES: Final = 2**20
MAX_OPEN_BODY_BYTES: Final = 32 * 2**10
"""From anybody, of whom there may be many: a login, or a wish to join."""

_BODY_SECONDS: Final = 30.0
_PING_SECONDS: Final = 2.0
_NO_STORE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_READS: Final = frozenset({"GET", "HEAD"})
_LOG = structlog.get_logger()
_CLIENTS_FAULTS: Final = (
    HttpProcessingError,
    ClientPayloadError,
    web.RequestPayloadError,
    ConnectionError,
)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiServer:
    """Puts routes behind their access checks."""

    def __init__(
        self,
        store: Store,
        gate: Gate,
        routes: Sequence[ApiRoute],
        clock: Callable[[], float] = time.time,
        connections: Connections | None = None,
    ) -> None:
        """Serve routes; `connections` are looked after, where given, and are to be followed."""
        self._connections = connections
        self._store = store
        self._gate = gate
        self._routes = routes
        self._clock = clock

    def application(self) -> web.Application:
        """Return the application, which serves nothing that is not in the table but /_ping, /ca."""
        application = web.Application(
            middlewares=[self._followed, _errors], client_max_size=MAX_BODY_BYTES
        )
        application.router.add_get("/_ping", self._ping)
        application.router.add_get("/ca", self._ca)
        for route in self._routes:
            handler = self._behind(route)
            application.router.add_route(route.method, PREFIX + route.path, handler)
            if route.path == "/auth/login":
                # Where the original had it.
                application.router.add_route(route.method, route.path, handler)
        return application

    def runner(self, *, shutdown_seconds: float) -> web.AppRunner:
        """Return what serves the application.

        What a client sends wrongly is answered, and is no line in the log: anybody could fill it.
        Bodies are not unpacked: a few bytes could become a thousand times as many.
        """
        return web.AppRunner(
            self.application(),
            access_log=None,
            shutdown_timeout=shutdown_seconds,
            logger=_logger(),
            auto_decompress=False,
        )

    @web.middleware
    async def _followed(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Have a connection known as one with a request at work."""
        transport = request.transport
        if self._connections is None or transport is None:
            return await handler(request)
        host, port = transport.get_extra_info("peername")[:2]
        activity = self._connections.begin((host.partition("%")[0], str(port)))
        try:
            return await handler(request)
        finally:
            activity.active -= 1

    def _behind(self, route: ApiRoute) -> _Handler:
        async def handler(request: web.Request) -> web.Response:
            now = self._clock()
            address = canonical_address(request.remote or "")
            caller = await self._gate.admit(
                route.access,
                certificate=_certificate(request),
                authorization=request.headers.get("Authorization", ""),
                address=address,
                now=now,
            )
            if request.method not in _READS:
                _check_conditions(request)
            is_open = route.access is Access.OPEN
            body = await _body(request, MAX_OPEN_BODY_BYTES if is_open else MAX_BODY_BYTES)
            if body is not None:
                # It may have taken half a minute.
                await self._gate.require_still(caller)
            answer = await route.handler(
                ApiRequest(
                    store=self._store,
                    caller=caller.name,
                    path=dict(request.match_info),
                    query=dict(request.query),
                    body=body,
                    peer_address=address,
                    session=caller.session,
                    fingerprint=caller.fingerprint,
                    now=now,
                )
            )
            if request.method not in _READS and not caller.is_node:
                _LOG.info(
                    "asked", method=request.method, path=request.path, by=caller.name or address
                )
            return web.json_response(answer, headers=_NO_STORE)

        return handler

    async def _ping(self, _request: web.Request) -> web.Response:
        error = ""
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self._store.get(keys.CLUSTER)
        except (UnavailableError, TimeoutError):
            error = "No majority of etcd answers."
        status = 503 if error else 200
        answer: dict[str, JsonValue] = {"Error": error, "Healthy": not error}
        return web.json_response(answer, status=status, headers=_NO_STORE)

    async def _ca(self, _request: web.Request) -> web.Response:
        entry = await self._store.get(keys.CLUSTER)
        if entry is None:
            raise ApiError(503, "UNAVAILABLE", "The control plane is not set up yet. Try again.")
        pem = entry.document(ClusterRecord).ca_certificate
        return web.Response(text=pem, content_type="application/x-pem-file", headers=_NO_STORE)


def _logger() -> logging.Logger:
    """Return where the library says what went wrong, but for what clients did."""

    def is_ours(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], _CLIENTS_FAULTS))

    logger = logging.getLogger(__name__)
    if not logger.filters:
        logger.addFilter(is_ours)
    return logger


class TlsCertificate:
    """The node's certificate for this server, read again when the agent has renewed it."""

    def __init__(self, certificate: Path, key: Path, ca: Path) -> None:
        self._paths = (certificate, key)
        self._read = self._stamp()
        self.context = _server_context(certificate, key)
        self.context.load_verify_locations(ca)
        # Whoever shows none is no node; whoever shows one must have UCP's.
        self.context.verify_mode = ssl.CERT_OPTIONAL

    def refresh(self) -> bool:
        """Take a new certificate for connections from now on; return whether there was one."""
        stamp = self._stamp()
        if stamp == self._read:
            return False
        with suppress(ssl.SSLError, OSError):
            # Tried on another context first: half a pair, as in the middle of a renewal, would
            # leave this one without any.
            _server_context(*self._paths)
            self.context.load_cert_chain(*self._paths)
            self._read = stamp
            return True
        return False

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        with suppress(OSError):
            found = [path.stat() for path in self._paths]
            return tuple((each.st_mtime_ns, each.st_ino) for each in found)
        return ()


def _server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


def _certificate(request: web.Request) -> bytes | None:
    connection = request.get_extra_info("ssl_object")
    if not isinstance(connection, ssl.SSLObject):
        return None
    return connection.getpeercert(binary_form=True) or None


def _check_conditions(request: web.Request) -> None:
    """Keep to If-Match and If-None-Match (RFC 9110 13.1): nothing here has an ETag."""
    headers = {
        name.lower().encode(): ", ".join(request.headers.getall(name)).encode(errors="replace")
        for name in ("If-Match", "If-None-Match")
        if name in request.headers
    }
    conditions = Conditions.of(headers)
    if conditions is not None:
        conditions.require_without_etag()


async def _body(request: web.Request, limit: int) -> JsonValue:
    if not request.can_read_body:
        return None
    content = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.content.iter_any():
                content += chunk
                if len(content) > limit:
                    raise ApiError(413, "TOO_LARGE", f"The request is larger than {limit} bytes.")
    except TimeoutError:
        raise ApiError(408, "TIMEOUT", "The request did not arrive in time.") from None
    except _CLIENTS_FAULTS:
        message = "The request's body broke off, or cannot be read."
        raise ApiError(400, "INVALID", message) from None
    if not content:
        return None
    try:
        body: JsonValue = await away_from_loop(len(content), partial(load_json, bytes(content)))
    except JsonInvalidError as error:
        raise ApiError(400, "INVALID", f"The request {error}.") from None
    return body


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception as error:  # noqa: BLE001 - the outermost: whatever went wrong gets an answer
        return _spoken(error, request)


def _spoken(error: Exception, request: web.Request) -> web.Response:
    """Return the answer that says what went wrong."""
    match error:
        case ApiError():
            status, code, message = error.status, error.code, str(error)
        case ValidationError():
            status, code, message = 400, "INVALID", f"{problems_of(error)[0]}."
        case PreconditionFailedError():
            status, code, message = 412, "PRECONDITION_FAILED", f"{error}."
        case AuthorityError() | InvalidError():
            status, code, message = 400, "INVALID", str(error)
        case TooManyRequestsError():
            status, code = 429, "TOO_MANY_REQUESTS"
            message = f"{str(error).capitalize()}. Wait {error.retry_after_seconds:.0f} s."
        case UnavailableError():
            status, code = 503, "UNAVAILABLE"
            message = (
                "No majority of etcd answers. What runs goes on; try again when enough managers "
                "are back."
            )
        case web.HTTPException():
            status, code, message = error.status, "REFUSED", f"{error.reason}."
        case _:
            _LOG.error("failed", method=request.method, path=request.path, exc_info=error)
            status, code, message = 500, "INTERNAL", "Something went wrong; see the log."
    answer = {"errors": [{"code": code, "message": message}]}
    response = web.json_response(answer, status=status, headers=_NO_STORE)
    if status == web.HTTPUnauthorized.status_code:
        response.headers["WWW-Authenticate"] = 'Basic realm="UCP"'
    if isinstance(error, TooManyRequestsError):
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    return response
