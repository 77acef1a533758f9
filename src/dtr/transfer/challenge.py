"""How a registry asks who is there, and what a client answers (RFC 7235, Docker's token flow)."""

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from dtr.transfer.source import SourceError

_PARAMETER: Final = re.compile(r'([a-zA-Z]+)="([^"]*)"')
_TOKEN_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Credentials:
    """Name and password; the `repr` shows neither."""

    name: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(***)"


class Authenticator:
    """Answers challenges: with the password itself, or with a token that it gets for it.

    The password goes to the registry and to the token service that the registry names, and to
    nobody over plain HTTP who was reached over HTTPS.
    """

    def __init__(self, client: httpx.AsyncClient, credentials: Credentials | None) -> None:
        self._client = client
        self._credentials = credentials
        self._headers: dict[str, str] = {}

    def header(self, scope: str) -> str | None:
        """Return what answered the last challenge of this kind of request."""
        return self._headers.get(scope)

    async def answer(self, scope: str, response: httpx.Response) -> bool:
        """Find an answer to a 401; return False when there is none that was not given before.

        Raises:
            SourceError: the token service refuses, or is not to be trusted with a password.

        """
        scheme, _, rest = response.headers.get("www-authenticate", "").partition(" ")
        parameters = dict(_PARAMETER.findall(rest))
        before = self._headers.get(scope)
        if scheme.lower() == "bearer":
            token = await self._token(parameters, is_secure=response.url.scheme == "https")
            self._headers[scope] = f"Bearer {token}"
            return before is None or not before.startswith("Bearer ") or token not in before
        if scheme.lower() == "basic" and self._credentials is not None:
            request = httpx.Request("GET", response.url)
            basic = httpx.BasicAuth(self._credentials.name, self._credentials.password)
            self._headers[scope] = next(basic.auth_flow(request)).headers["authorization"]
        return self._headers.get(scope) != before

    async def _token(self, parameters: dict[str, str], *, is_secure: bool) -> str:
        realm = parameters.get("realm", "")
        scheme = urlsplit(realm).scheme
        if scheme != "https" and (is_secure or scheme != "http"):
            raise SourceError("the registry names a token service that is not reached over HTTPS")
        known = ("service", "scope")
        query: dict[str, str] = {key: parameters[key] for key in known if key in parameters}
        given = self._credentials
        auth = None if given is None else httpx.BasicAuth(given.name, given.password)
        async with self._client.stream("GET", realm, params=query, auth=auth) as response:
            if response.status_code != httpx.codes.OK:
                message = (
                    f"the token service answers {response.status_code}: wrong name or password?"
                )
                raise SourceError(message)
            document = await read_json(response, limit=_TOKEN_BYTES)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isprintable():
            raise SourceError("the token service gives no token")
        return token


async def read(response: httpx.Response, *, limit: int) -> bytes:
    """Return a body of at most `limit` bytes.

    Raises:
        SourceError: it is larger.

    """
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > limit:
            raise SourceError(f"{response.url.path} answers more than {limit} bytes")
    return bytes(content)


async def read_json(response: httpx.Response, *, limit: int) -> dict[str, Any]:
    """Return a JSON object of at most `limit` bytes.

    Raises:
        SourceError: it is larger, or is none.

    """
    content = await read(response, limit=limit)
    try:
        document = httpx.Response(200, content=content).json()
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise SourceError(f"{response.url.path} does not answer with a JSON object")
    return document
