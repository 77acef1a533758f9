"""One request, read no further than a handler asks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from dtr.asgi.held import FREE_BYTES, HeldBytes
from dtr.asgi.pace import BodyLimits, BodyWatch, SlowBodyError
from dtr.model.access import ANONYMOUS, Permit, Principal, Repository
from dtr.model.errors import (
    NameUnknownError,
    ParameterInvalidError,
    RequestTimeoutError,
    SizeInvalidError,
    TooLargeError,
)
from dtr.model.names import RepositoryName

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_MAX_PARAMETERS = 100
_DISCARDED_BYTES = 16 << 20
_USUAL_LIMITS = BodyLimits()


class ClientDisconnectError(Exception):
    """The client went away before its request was read; nobody is there to be answered."""


class Request:
    """What the client asked, and what the gate found out about it.

    `parameters` are the parts of the path that the route names. `principal`, `repository` and
    `permit` are the gate's; `repository` is None where the named one does not exist, `permit` where
    the route writes to none. `is_broken_off`: the body ended before its end.
    """

    __slots__ = (
        "_has_more",
        "_headers",
        "_held_bytes",
        "_query",
        "_receive",
        "body_bytes",
        "held",
        "id",
        "is_broken_off",
        "limits",
        "method",
        "parameters",
        "path",
        "permit",
        "principal",
        "repository",
        "scope",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        *,
        request_id: str = "",
        limits: BodyLimits = _USUAL_LIMITS,
        held: HeldBytes | None = None,
    ) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.id = request_id
        self.limits = limits
        self.held = held
        self.parameters: Mapping[str, str] = {}
        self.principal: Principal = ANONYMOUS
        self.permit: Permit | None = None
        self.repository: Repository | None = None
        self.body_bytes = 0
        self.is_broken_off = False
        self._held_bytes = 0
        self._receive = receive
        self._has_more = True
        self._headers: dict[bytes, bytes] | None = None
        self._query: dict[str, list[str]] | None = None

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The headers by lower-case name; one of several lines is one list (RFC 9110 5.3)."""
        if self._headers is None:
            lines = self.scope["headers"]
            self._headers = dict(lines)
            if len(self._headers) != len(lines):
                self._headers = _combined(lines)
        return self._headers

    def header(self, name: bytes) -> str:
        """Return a header's text, or nothing."""
        return self.headers.get(name, b"").decode("latin-1")

    def query_all(self, name: str) -> list[str]:
        """Return every value of a query parameter, in order.

        Raises:
            ParameterInvalidError: the query is not UTF-8 or has more than 100 parameters.

        """
        if self._query is None:
            self._query = _parse_query(self.scope["query_string"])
        return self._query.get(name, [])

    def query(self, name: str) -> str | None:
        """Return the first value of a query parameter, or None where there is none."""
        values = self.query_all(name)
        return values[0] if values else None

    @property
    def name(self) -> RepositoryName:
        """The repository name in the path, which the gate has checked."""
        return RepositoryName(self.parameters["name"])

    def existing_repository(self) -> Repository:
        """Return the repository that the path names.

        Raises:
            NameUnknownError: there is none.

        """
        if self.repository is None:
            raise NameUnknownError(name=str(self.name))
        return self.repository

    @property
    def content_length(self) -> int | None:
        """The announced length of the body, or None where it is chunked."""
        text = self.headers.get(b"content-length")
        if text is None:
            return None
        if not text.isdigit():
            raise SizeInvalidError("Content-Length must be a number of bytes")
        return int(text)

    def stream(self, *, limit: int) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Raises:
            TooLargeError: more than `limit` bytes.
            RequestTimeoutError: it comes too slowly, or not at all any more.
            ClientDisconnectError: the client went away.

        """
        return self._stream(limit, self.limits.whole_seconds)

    async def content(self, *, limit: int) -> bytes:
        """Return the whole body, which must be small and come soon.

        What is held of a large one is counted until `release`.

        Raises:
            TooManyRequestsError, UnavailableError: too much is held already (`HeldBytes`).

        """
        content = bytearray()  # a list would hold an object for each of the tiniest pieces
        async for chunk in self._stream(limit, self.limits.small_seconds):
            content += chunk
            if len(content) > FREE_BYTES:
                self._hold(len(content))
        return bytes(content)

    def _hold(self, count: int) -> None:
        if self.held is not None:
            self.held.take(self.principal.account_id or 0, count - self._held_bytes)
            self._held_bytes = count

    def release(self) -> None:
        """Count the body no more: the request is answered."""
        if self.held is not None and self._held_bytes:
            self.held.release(self.principal.account_id or 0, self._held_bytes)
            self._held_bytes = 0

    async def _stream(self, limit: int, seconds: float) -> AsyncIterator[bytes]:
        if (self.content_length or 0) > limit:
            raise TooLargeError(f"body is larger than {limit} bytes", limit=limit)
        watch = BodyWatch(self.limits, whole_seconds=seconds)
        try:
            while self._has_more:
                message = await watch.wait(self._receive())
                if message["type"] != "http.request":
                    self._has_more = False
                    raise ClientDisconnectError
                chunk = message.get("body", b"")
                self._has_more = message.get("more_body", False)
                self.body_bytes += len(chunk)
                watch.received = self.body_bytes
                if self.body_bytes > limit:
                    raise TooLargeError(f"body is larger than {limit} bytes", limit=limit)
                if chunk:
                    yield chunk
        except SlowBodyError as error:
            raise RequestTimeoutError(str(error)) from None
        finally:
            watch.close()

    async def discard_rest(self) -> None:
        """Read what is left of a body that was refused, if it is not much and comes at once.

        Called after the answer was sent. A connection that is closed on a client that still sends
        is reset, and the client may then lose the very answer that tells it why. Nothing waits for
        this but the connection itself.
        """
        has_body = (
            b"transfer-encoding" in self.headers
            or self.headers.get(b"content-length", b"0") != b"0"
        )
        # Who asked first (Expect: 100-continue) waits for the answer, and sends nothing.
        if not (self._has_more and has_body) or b"expect" in self.headers:
            return
        most = self.body_bytes + _DISCARDED_BYTES
        with suppress(TimeoutError, ClientDisconnectError):
            async with asyncio.timeout(self.limits.drain_seconds):
                while self._has_more and self.body_bytes <= most:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        break
                    self.body_bytes += len(message.get("body", b""))
                    self._has_more = message.get("more_body", False)


def _combined(lines: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, value in lines:
        found[name] = b"%b, %b" % (found[name], value) if name in found else value
    return found


def _parse_query(query: bytes) -> dict[str, list[str]]:
    if not query:
        return {}
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            max_num_fields=_MAX_PARAMETERS,
            errors="strict",
        )
    except ValueError:
        message = f"query must be URL-encoded UTF-8 with at most {_MAX_PARAMETERS} parameters"
        raise ParameterInvalidError(message) from None
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found
