"""How a registry asks who is there, and what a client answers (RFC 7235, Docker's token flow)."""

import base64
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from dtr.model.errors import InvalidError
from dtr.remote.errors import RemoteError
from dtr.remote.targets import Origin, Targets

_PARAMETER: Final = re.compile(r'([a-zA-Z]+)="([^"]*)"')
_MOST_CHALLENGE: Final = 8192
_MOST_SCOPES: Final = 1024

GetDocument = Callable[[str, Mapping[str, str], str | None], Awaitable[dict[str, Any]]]
"""Gets a JSON object: from a URL, with parameters, with an `Authorization` header or none."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Name and password; the `repr` shows neither."""

    name: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(***)"

    @property
    def basic(self) -> str:
        """The value of an `Authorization` header that says them."""
        return "Basic " + base64.b64encode(f"{self.name}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a `WWW-Authenticate` header, its scheme in lower case."""

    scheme: str
    parameters: Mapping[str, str]

    @classmethod
    def choose(cls, headers: Iterable[str]) -> Self | None:
        """Return the challenge to answer: a token is better than a password each time."""
        found: dict[str, Self] = {}
        for header in headers:
            scheme, _, rest = header[:_MOST_CHALLENGE].partition(" ")
            found[scheme.lower()] = cls(scheme.lower(), dict(_PARAMETER.findall(rest)))
        return found.get("bearer") or found.get("basic")


class Authenticator:
    """Answers challenges: with the password itself, or with a token that it gets for it.

    The caller asks only about challenges of the server that the operator named. The password goes
    to that server and to token services that the operator trusts (`Targets`), to nobody else.
    """

    def __init__(self, targets: Targets, credentials: Credentials | None, get: GetDocument) -> None:
        self._targets = targets
        self._credentials = credentials
        self._get = get
        self._headers: dict[str, str] = {}

    def header(self, scope: str) -> str | None:
        """Return what answered the last challenge of this kind of request."""
        return self._headers.get(scope)

    async def answer(self, scope: str, headers: Iterable[str]) -> bool:
        """Find an answer to a 401; return False when there is none that was not given before.

        Raises:
            RemoteError: the token service refuses, or is not to be trusted with a password.

        """
        challenge = Challenge.choose(headers)
        before = self._headers.get(scope)
        if len(self._headers) >= _MOST_SCOPES:
            self._headers.clear()
        if challenge is not None and challenge.scheme == "bearer":
            token = await self._token(challenge.parameters)
            self._headers[scope] = f"Bearer {token}"
            return before is None or not before.startswith("Bearer ") or token not in before
        if challenge is not None and self._credentials is not None:
            self._headers[scope] = self._credentials.basic
            return self._credentials.basic != before
        return False

    async def _token(self, parameters: Mapping[str, str]) -> str:
        realm = parameters.get("realm", "")
        self._check_realm(realm)
        query = {key: parameters[key] for key in ("service", "scope") if key in parameters}
        basic = None if self._credentials is None else self._credentials.basic
        document = await self._get(realm, query, basic)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not (token.isascii() and token.isprintable()):
            raise RemoteError("the token service gives no token")
        return token

    def _check_realm(self, realm: str) -> None:
        try:
            service = Origin.parse(realm)
        except InvalidError:
            raise RemoteError("the registry names no usable token service") from None
        if self._targets.may_have_password(service):
            return
        if service.scheme != "https" and self._targets.origin.scheme == "https":
            raise RemoteError("the registry names a token service that is not reached over HTTPS")
        message = (
            f"the registry has passwords sent to another server, {service}; nothing was sent: "
            f"where that is right, pass --token-service {service}"
        )
        raise RemoteError(message)
