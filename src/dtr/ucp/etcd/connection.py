"""Calls to etcd's JSON gateway: which member is asked, who asks, and what an answer means.

etcd's own protocol is gRPC; the gateway (`/v3/…`, etcd 3.4) takes the same messages as JSON with
keys, values and passwords in base64 and 64-bit numbers as strings.
"""

import asyncio
import json
import ssl
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from dtr.model.errors import UnavailableError
from dtr.model.failures import reason_of

Answer = dict[str, Any]

_CONNECTIONS: Final = 2000  # every watch has one
_LONGEST_LINE_BYTES: Final = 32 * 2**20
_HTTP_ERRORS: Final = 400
_HTTP_SERVER_ERRORS: Final = 500
_LOGINS_PER_CALL: Final = 2
# What etcd says when it does not know who asks: the token ended, or its member was restarted, or
# authentication was enabled a moment ago. Nothing was done.
_WHO_ARE_YOU: Final = ("invalid auth token", "user name is empty", "revision in header is old")
# What a member says that has certainly not begun the request.
_NOT_BEGUN: Final = ("not supported for learner", "too many requests")
# A refusal, although etcd says it as if it were away: a voter is not connected.
_UNHEALTHY: Final = "unhealthy cluster"
_NOT_ENABLED: Final = "authentication is not enabled"
_NO_SPACE: Final = "database space exceeded"
_FULL: Final = (
    "etcd is full and accepts no writes. It makes room by itself within a minute or two, unless a "
    "manager is away: start every manager's machine, and try again"
)


class EtcdRefusedError(UnavailableError):
    """The control plane's store refuses this.

    etcd answered, and nothing was done; `reason` is what it said.
    """

    def __init__(self, message: str = "", *, reason: str = "") -> None:
        super().__init__(message, reason=reason)
        self.reason = reason


class _UnansweredError(Exception):
    """One member did not do it; `is_begun` says that it may have."""

    def __init__(self, message: str, *, is_begun: bool) -> None:
        super().__init__(message)
        self.is_begun = is_begun


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths, in PEM: whom to trust, and who the caller is. They are read again when replaced."""

    ca: Path
    certificate: Path
    key: Path

    def stamp(self) -> tuple[int, ...]:
        """Return what differs once one of them was replaced."""
        found = [path.stat() for path in (self.ca, self.certificate, self.key)]
        return tuple(number for each in found for number in (each.st_mtime_ns, each.st_ino))

    def context(self) -> ssl.SSLContext:
        """Return what a client needs for mutual TLS."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True, slots=True)
class EtcdLogin:
    """A user of etcd."""

    password: str = field(repr=False)
    name: str = "root"


@dataclass(frozen=True, slots=True)
class EtcdLimits:
    """How long is waited. A machine that vanished costs `connect_seconds` per call."""

    connect_seconds: float = 2
    try_seconds: float = 4
    """For one member to answer what may be asked again elsewhere."""
    overall_seconds: float = 10
    """For all tries together; what may not be repeated has all of it for its one try."""
    pause_seconds: float = 0.2
    """After all members were asked in vain."""
    idle_seconds: float = 60
    """A watch that says nothing for so long ends; its member may have vanished."""


class EtcdConnection:
    """Speaks to whichever of several members answers, as one user.

    The member that answered last is asked first. While authentication is not enabled, the login is
    not used; once it is, a token is fetched, and fetched again when a member refuses it.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        tls: TlsFiles | None = None,
        login: EtcdLogin | None = None,
        limits: EtcdLimits = EtcdLimits(),
    ) -> None:
        """`endpoints` are `https://address:port`; without `tls`, plain HTTP (tests)."""
        self._endpoints = tuple(endpoints)
        self._tls = tls
        self._login = login
        self._limits = limits
        self._session: aiohttp.ClientSession | None = None
        self._stamp: tuple[int, ...] = ()
        self._context: ssl.SSLContext | None = None
        self._token = ""
        self._authenticating = asyncio.Lock()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The members' client URLs, the one that answered last first."""
        return self._endpoints

    def use_endpoints(self, endpoints: Sequence[str]) -> None:
        """Speak to these from the next try on; those known keep their order. Empty: no change."""
        known = [each for each in self._endpoints if each in endpoints]
        if endpoints:
            self._endpoints = (*known, *(each for each in endpoints if each not in known))

    def use_login(self, login: EtcdLogin) -> None:
        """Be this user from the next try on."""
        if login != self._login:
            self._login = login
            self._token = ""

    async def call(self, path: str, body: Mapping[str, Any], *, is_repeatable: bool) -> Answer:
        """Return the answer to one request.

        What is not repeatable is sent a second time only if the first was certainly not begun.

        Raises:
            EtcdRefusedError: etcd says no.
            UnavailableError: nobody answered in time; unless repeatable, it may have been done.

        """
        (answer,) = await self.call_in_turn([(path, body)], is_repeatable=is_repeatable)
        return answer

    async def call_in_turn(
        self, requests: Sequence[tuple[str, Mapping[str, Any]]], *, is_repeatable: bool
    ) -> list[Answer]:
        """Return the answers of one and the same member to several requests; else as `call`."""
        problem = "no member is known"
        limits = self._limits
        deadline = asyncio.get_running_loop().time() + limits.overall_seconds
        while True:
            for endpoint in self._endpoints:
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    raise UnavailableError(f"no etcd member answered in time: {problem}")
                seconds = min(left, limits.try_seconds) if is_repeatable else left
                try:
                    answers = [
                        await self.call_member(endpoint, path, body, seconds=seconds)
                        for path, body in requests
                    ]
                except _UnansweredError as error:
                    problem = f"{endpoint}: {error}"
                    if error.is_begun and not is_repeatable:
                        raise UnavailableError(
                            f"whether etcd did it is unknown: {problem}"
                        ) from None
                else:
                    self._prefer(endpoint)
                    return answers
            if asyncio.get_running_loop().time() + limits.pause_seconds >= deadline:
                raise UnavailableError(f"no etcd member answered in time: {problem}")
            await asyncio.sleep(limits.pause_seconds)

    async def ask(
        self, endpoint: str, path: str, body: Mapping[str, Any], *, seconds: float | None = None
    ) -> Answer:
        """Return one member's answer; `seconds` is for what takes it longer than others.

        Raises:
            EtcdRefusedError: it says no.
            UnavailableError: it does not answer in time, or cannot do it.

        """
        try:
            return await self.call_member(
                endpoint, path, body, seconds=seconds or self._limits.try_seconds
            )
        except _UnansweredError as error:
            raise UnavailableError(f"{endpoint}: {error}") from None

    async def call_member(
        self, endpoint: str, path: str, body: Mapping[str, Any], *, seconds: float
    ) -> Answer:
        """Ask one member, as a known user where it wants to know."""
        for _ in range(_LOGINS_PER_CALL):
            token = self._token
            status, answer = await self._post(endpoint, path, body, token, seconds)
            if status < _HTTP_ERRORS:
                return answer
            reason = str(answer.get("error", f"status {status}"))
            if not asks_who(reason):
                break
            await self._authenticate(endpoint, token, seconds)
        if any(words in reason for words in _NOT_BEGUN):
            raise _UnansweredError(reason, is_begun=False)
        if status >= _HTTP_SERVER_ERRORS and _UNHEALTHY not in reason:
            raise _UnansweredError(reason, is_begun=True)
        if _NO_SPACE in reason:
            raise EtcdRefusedError(_FULL, reason=reason)
        raise EtcdRefusedError(f"etcd refuses: {reason}", reason=reason)

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Answer]:
        """Yield a member's answers as they come; it ends when the member is silent for too long.

        Raises:
            EtcdRefusedError: etcd says no.
            UnavailableError: no member answers, or it stopped.

        """
        problem = "no member is known"
        for endpoint in self._endpoints:
            is_open = False
            try:
                async with aclosing(self._stream_of(endpoint, path, body)) as answers:
                    async for answer in answers:
                        is_open = True
                        yield answer
            except _UnansweredError as error:
                problem = f"{endpoint}: {error}"
                if is_open:
                    break
            else:
                self._prefer(endpoint)
                return
        raise UnavailableError(f"no etcd member answers: {problem}")

    async def authenticate_again(self) -> None:
        """Fetch a new token: a watch is refused without saying that the old one has ended."""
        token = self._token
        for endpoint in self._endpoints:
            try:
                await self._authenticate(endpoint, token, self._limits.try_seconds)
            except _UnansweredError:
                continue
            return
        raise UnavailableError("no etcd member answers")

    async def close(self) -> None:
        """Let go of all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _prefer(self, endpoint: str) -> None:
        if endpoint in self._endpoints and self._endpoints[0] != endpoint:
            others = (each for each in self._endpoints if each != endpoint)
            self._endpoints = (endpoint, *others)

    async def _authenticate(self, endpoint: str, refused: str, seconds: float) -> None:
        async with self._authenticating:
            if self._token != refused:
                return  # somebody else was faster
            if self._login is None:
                raise EtcdRefusedError("etcd asks for a login, and none was given")
            who = {"name": self._login.name, "password": self._login.password}
            status, answer = await self._post(endpoint, "auth/authenticate", who, "", seconds)
            reason = str(answer.get("error", ""))
            if status < _HTTP_ERRORS:
                self._token = str(answer["token"])
            elif _NOT_ENABLED in reason:
                self._token = ""
            elif status >= _HTTP_SERVER_ERRORS:
                raise _UnansweredError(reason, is_begun=False)
            else:
                raise EtcdRefusedError(
                    f"etcd refuses the login of {self._login.name}: {reason}", reason=reason
                )

    async def _post(
        self, endpoint: str, path: str, body: Mapping[str, Any], token: str, seconds: float
    ) -> tuple[int, Answer]:
        connect = min(seconds, self._limits.connect_seconds)
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=connect)
        try:
            async with self._opened().post(
                f"{endpoint}/v3/{path}",
                data=json.dumps(body),
                headers={"Authorization": token} if token else None,
                timeout=timeout,
                ssl=self._current_context(),
            ) as response:
                answer = json.loads(await response.read())
                if not isinstance(answer, dict):
                    raise _UnansweredError("it is not etcd", is_begun=True)
                return response.status, answer
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _UnansweredError(_told(error), is_begun=False) from None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _UnansweredError(_told(error), is_begun=True) from None

    async def _stream_of(
        self, endpoint: str, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[Answer]:
        limits = self._limits
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=limits.connect_seconds, sock_read=limits.idle_seconds
        )
        # A member that has lost its leader says so and ends the stream, instead of being silent.
        headers = {"Grpc-Metadata-hasleader": "true"}
        if self._token:
            headers["Authorization"] = self._token
        try:
            response = await self._opened().post(
                f"{endpoint}/v3/{path}",
                data=json.dumps(body),
                headers=headers,
                timeout=timeout,
                ssl=self._current_context(),
            )
            try:
                async with aclosing(_lines(response)) as lines:
                    async for line in lines:
                        yield _streamed(line)
            finally:
                _abort(response)
        except aiohttp.SocketTimeoutError:
            return
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _UnansweredError(_told(error), is_begun=True) from None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self._session

    def _current_context(self) -> ssl.SSLContext | bool:
        if self._tls is None:
            return True
        stamp = self._tls.stamp()
        if self._context is None or stamp != self._stamp:
            self._context = self._tls.context()
            self._stamp = stamp
        return self._context


def asks_who(reason: str) -> bool:
    """Tell whether etcd did nothing only because it does not know who asks."""
    return any(words in reason for words in _WHO_ARE_YOU)


def encoded(content: str | bytes) -> str:
    """Return a key or a value as the gateway takes it."""
    return b64encode(content.encode() if isinstance(content, str) else content).decode()


def prefix_end(prefix: str) -> bytes:
    r"""Return the first key after all that begin so.

    >>> prefix_end("/ucp/"), prefix_end("")
    (b'/ucp0', b'\x00')
    """
    content = prefix.encode()  # in UTF-8 no byte is 0xff, so that there is always a next one
    return content[:-1] + bytes([content[-1] + 1]) if content else b"\0"


async def _lines(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    # Not `readline`: an event carries its value, and that may be longer than aiohttp's lines.
    rest = b""
    async for chunk in response.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > _LONGEST_LINE_BYTES:
            raise ValueError("an answer that is too long")
        for line in whole:
            if line.strip():
                yield line
    if rest.strip():
        yield rest


def _abort(response: aiohttp.ClientResponse) -> None:
    # Not politely: etcd has nothing to say to a goodbye, for which TLS would wait.
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


def _streamed(line: bytes) -> Answer:
    message = json.loads(line)
    if isinstance(message, dict) and isinstance(message.get("result"), dict):
        result: Answer = message["result"]
        return result
    error = message.get("error") if isinstance(message, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    raise _UnansweredError(str(said or "it is not etcd"), is_begun=True)


def _told(error: Exception) -> str:
    if isinstance(error, ValueError):
        return "it is not etcd"
    return reason_of(error, "it broke off the connection")
