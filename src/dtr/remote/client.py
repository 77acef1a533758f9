"""Requests to one registry that an operator named, as an ordinary client makes them.

A failure is tried again. A redirect is followed to public addresses, without the password; who is
reached by a redirect to another server asks for a password in vain. The address is looked at when
the connection is made, so that a name cannot mean another one a moment later.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
from yarl import URL

from dtr.model.away import away_from_loop
from dtr.model.documents import JsonInvalidError, load_json
from dtr.model.errors import InvalidError, UnavailableError
from dtr.model.failures import reason_of
from dtr.remote.challenge import Authenticator, Credentials
from dtr.remote.errors import BrokenOffError, RemoteError, TooMuchError
from dtr.remote.targets import Origin, TargetRefusedError, Targets

ATTEMPTS: Final = 5
OK: Final = 200
UNAUTHORIZED: Final = 401
_MOST_ANSWERS: Final = 3
_MOST_REDIRECTS: Final = 5
_TOKEN_BYTES: Final = 64 << 10
_BUSY: Final = frozenset({429, 500, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
_FAILURES: Final = (aiohttp.ClientError, TimeoutError, OSError)


class Answer:
    """An answer whose body is still to be read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status

    @property
    def size(self) -> int:
        """How many bytes the body is said to have; 0 where nothing is said."""
        return self._response.content_length or 0

    def header(self, name: str) -> str:
        """Return a header, empty where there is none."""
        return self._response.headers.get(name, "")

    @property
    def next_page(self) -> str:
        """The target of `Link: <...>; rel="next"`, empty where there is none."""
        link = self._response.links.get("next")
        return str(link.get("url", "")) if link is not None else ""

    def chunks(self) -> AsyncIterator[bytes]:
        """Stream the body."""
        return self._response.content.iter_any()

    async def read(self, *, limit: int) -> bytes:
        """Return a body of at most `limit` bytes.

        Raises:
            TooMuchError: it is larger.

        """
        content = bytearray()
        async for chunk in self.chunks():
            content += chunk
            if len(content) > limit:
                raise TooMuchError(f"{self._response.url.path} answers more than {limit} bytes")
        return bytes(content)

    async def read_json(self, *, limit: int) -> dict[str, Any]:
        """Return a JSON object of at most `limit` bytes.

        Raises:
            RemoteError: it is larger, or is none.

        """
        content = await self.read(limit=limit)
        try:
            document = await away_from_loop(len(content), partial(load_json, content))
        except JsonInvalidError:
            document = None
        if not isinstance(document, dict):
            raise RemoteError(f"{self._response.url.path} does not answer with a JSON object")
        return document


class RemoteClient:
    """Asks the origin of `targets`; certificates are verified, unless `verify` is false.

    A proxy that the environment names (HTTPS_PROXY) is used, and then it is the proxy's to decide
    which addresses names may lead to.
    """

    def __init__(
        self, targets: Targets, credentials: Credentials | None = None, *, verify: bool = True
    ) -> None:
        self._targets = targets
        self._verify = verify
        self._authenticator = Authenticator(targets, credentials, self._document)
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    @asynccontextmanager
    async def open(
        self,
        path: str,
        *,
        scope: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Answer]:
        """Give the answer of the origin, whatever its status.

        Requests of one `scope` share a token.
        A failure to get an answer is tried again, a body that breaks off is not.

        Raises:
            RemoteError: it redirects, or asks for a password, in a way that is not followed.
            UnavailableError: it does not answer.
            BrokenOffError: its body broke off.

        """
        response = await self._patiently(scope, method, path, dict(headers or {}))
        try:
            yield Answer(response)
        except _FAILURES as error:
            raise BrokenOffError(f"the registry broke off: {_reason(error)}") from error
        finally:
            response.close()

    async def close(self) -> None:
        """Close the connections."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def _patiently(
        self, scope: str, method: str, path: str, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(2 ** (attempt - 2) * random.uniform(0.5, 1.0))  # noqa: S311
            try:
                response = await self._once(scope, method, path, headers)
            except _FAILURES as error:
                _refuse_for_good(error)
                if attempt == ATTEMPTS - 1:
                    message = f"the registry does not answer: {_reason(error)}"
                    raise UnavailableError(message) from error
                continue
            if response.status not in _BUSY or attempt == ATTEMPTS - 1:
                return response
            response.close()
        raise UnavailableError("the registry does not answer")

    async def _once(
        self, scope: str, method: str, path: str, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        for _ in range(_MOST_ANSWERS):
            response, is_origin = await self._follow(scope, method, path, headers)
            if response.status != UNAUTHORIZED:
                return response
            response.close()
            if not is_origin:
                message = (
                    f"it redirects to another server, {_shown(response)}, which asks for a "
                    "password; nothing was sent there"
                )
                raise RemoteError(message)
            challenges = response.headers.getall("WWW-Authenticate", [])
            if not await self._authenticator.answer(scope, challenges):
                break
        return response

    async def _follow(
        self, scope: str, method: str, path: str, headers: dict[str, str]
    ) -> tuple[aiohttp.ClientResponse, bool]:
        """Send a request and follow its redirects; tell whether still the origin answered."""
        url, is_origin = f"{self._targets.origin}{path}", True
        for _ in range(_MOST_REDIRECTS + 1):
            authorization = self._authenticator.header(scope) if is_origin else None
            given = {**headers, "Authorization": authorization} if authorization else headers
            response = await self._send(method, url, given, is_trusted=is_origin)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return response, is_origin
            response.close()
            url = self._redirected(url, location)
            # Who has once been left names the next one as a stranger does.
            is_origin = is_origin and Origin.parse(url) == self._targets.origin
        raise RemoteError(f"it redirects more than {_MOST_REDIRECTS} times")

    def _redirected(self, url: str, location: str) -> str:
        """Return where a redirect leads, if it may be followed there."""
        target = urljoin(url, location)
        try:
            following = Origin.parse(target)
        except InvalidError:
            raise RemoteError("it redirects to an address that is not HTTP or HTTPS") from None
        if following.scheme == "http" and urlsplit(url).scheme == "https":
            raise RemoteError(f"it redirects from HTTPS to plain HTTP, {following}")
        return target

    async def _document(
        self, url: str, query: Mapping[str, str], authorization: str | None
    ) -> dict[str, Any]:
        """Get what a token service says; it was checked that it may have the password."""
        headers = {"Authorization": authorization} if authorization else {}
        given = str(URL(url).extend_query(query))
        response = await self._send("GET", given, headers, is_trusted=True)
        try:
            if response.status in _BUSY:
                raise aiohttp.ClientConnectionError(f"token service answers {response.status}")
            if response.status != OK:
                message = f"the token service answers {response.status}: wrong name or password?"
                raise RemoteError(message)
            return await Answer(response).read_json(limit=_TOKEN_BYTES)
        finally:
            response.close()

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], *, is_trusted: bool
    ) -> aiohttp.ClientResponse:
        proxy, target, named = _proxy(url), URL(url, encoded="%" in url), Origin.parse(url)
        if (target.scheme, target.raw_host, target.port) != (named.scheme, named.host, named.port):
            raise RemoteError("it redirects to an ambiguous address")
        session = self._session(is_guarded=not is_trusted and proxy is None)
        return await session.request(
            method,
            target,
            headers={"Accept-Encoding": "identity", **headers},
            allow_redirects=False,
            ssl=self._verify,
            proxy=proxy,
        )

    def _session(self, *, is_guarded: bool) -> aiohttp.ClientSession:
        """Return the connections to who was named, or those to who was named by strangers."""
        if is_guarded not in self._sessions:
            connect = self._targets.connect if is_guarded else None
            connector = aiohttp.TCPConnector(socket_factory=connect, use_dns_cache=not is_guarded)
            self._sessions[is_guarded] = aiohttp.ClientSession(
                connector=connector,
                timeout=_TIMEOUT,
                auto_decompress=False,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._sessions[is_guarded]


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for a URL."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    return getproxies_environment().get(parts.scheme)


def _refuse_for_good(error: Exception) -> None:
    """Say at once what trying again does not change.

    Raises:
        RemoteError: the address is not for strangers to name, or the certificate is not trusted.

    """
    if isinstance(error, aiohttp.InvalidURL):
        raise RemoteError("it redirects to an ambiguous address") from error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        found = getattr(error.certificate_error, "verify_message", "") or "it cannot be verified"
        message = f"the certificate of {error.host} is not trusted: {found}"
        raise RemoteError(message) from error
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, TargetRefusedError):
        host = getattr(error, "host", "another server")
        message = (
            f"it redirects to {host}, which is at a private address; where that is right, pass "
            "--allow-network NETWORK"
        )
        raise RemoteError(message) from error


def _shown(response: aiohttp.ClientResponse) -> str:
    return str(Origin.parse(str(response.url)))


def _reason(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, TimeoutError):
        return "nothing came for too long"
    if isinstance(cause, OSError) and (cause.errno or 0) > 0:
        return os.strerror(cause.errno or 0)
    return getattr(cause, "strerror", None) or reason_of(cause, "it broke off the connection")
