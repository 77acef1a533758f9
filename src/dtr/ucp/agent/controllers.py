"""How a node speaks to the controllers: with its certificate, to any that answers."""

import asyncio
import json
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import aiohttp
from pydantic import JsonValue

from dtr.model.errors import UnavailableError
from dtr.model.failures import reason_of
from dtr.ucp.agent.port import Controllers, NodeDirectory
from dtr.ucp.api import PREFIX, ApiError

_CONNECT_SECONDS: Final = 3
_CALL_SECONDS: Final = 10
_MAX_ANSWER_BYTES: Final = 16 << 20
_MAX_CONTROLLERS: Final = 64
_ERRORS: Final = 400
_UNAVAILABLE: Final = 503
_NEVER_ARRIVED: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


class HttpControllers:
    """Remembers which controller answered last and asks it first; another when it does not answer.

    The node's certificate is read again whenever the file changes.
    """

    def __init__(self, directory: NodeDirectory, controllers: Sequence[str]) -> None:
        """Begin with these, `address:port` each."""
        self._directory = directory
        self._addresses = list(dict.fromkeys(controllers))[:_MAX_CONTROLLERS]
        self._session: aiohttp.ClientSession | None = None
        self._context: ssl.SSLContext | None = None
        self._loaded: object = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """All that are known, the one that is asked first before the others."""
        return tuple(self._addresses)

    def learn(self, controllers: Sequence[str]) -> None:
        """Ask these from now on, and nobody else; an empty list is no news."""
        if controllers and set(controllers) != set(self._addresses):
            known = [address for address in self._addresses if address in controllers]
            self._addresses = list(dict.fromkeys((*known, *controllers)))[:_MAX_CONTROLLERS]

    async def call(
        self, method: str, path: str, body: JsonValue = None, *, seconds: float = _CALL_SECONDS
    ) -> JsonValue:
        """Call a route; a GET is repeated elsewhere, anything else only if it never arrived.

        `seconds` is how long all of it may take.

        Raises:
            UnavailableError: no controller answered in time.
            ApiError: one refused; the message says why.

        """
        problem = "no controller is known"
        try:
            async with asyncio.timeout(seconds):
                for address in self.addresses:
                    try:
                        return await self._ask(address, method, path, body)
                    except (UnavailableError, aiohttp.ClientError, OSError) as error:
                        problem = f"{address}: {_reason(error)}"
                        self._ask_last(address)
                        if method != "GET" and not isinstance(error, _NEVER_ARRIVED):
                            break
        except TimeoutError:
            problem = f"{self._addresses[0]} did not answer within {seconds:g} s"
            self._ask_last(self._addresses[0])
        raise UnavailableError(f"No controller answered ({problem}).")

    async def close(self) -> None:
        """Let go of connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _ask_last(self, address: str) -> None:
        if address in self._addresses:  # else forgotten meanwhile
            self._addresses.remove(address)
            self._addresses.append(address)

    async def _ask(self, address: str, method: str, path: str, body: JsonValue) -> JsonValue:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        async with self._session.request(
            method,
            f"https://{address}{PREFIX}{path}",
            json=body,
            ssl=self._current_context(),
            allow_redirects=False,
        ) as response:
            content = await _content(response)
        return _answer(response.status, content)

    def _current_context(self) -> ssl.SSLContext:
        """Return the context of the certificate that is there now.

        Connections belong to their context: an old one is not used again with a new certificate.
        """
        directory = self._directory
        status = directory.certificate.stat()
        loaded = (status.st_ino, status.st_mtime_ns)
        if self._context is None or loaded != self._loaded:
            context = ssl.create_default_context(cafile=directory.ca)
            context.load_cert_chain(directory.certificate, directory.key)
            self._context, self._loaded = context, loaded
        return self._context


def _reason(error: Exception) -> str:
    if isinstance(error, UnavailableError):
        return str(error)
    return reason_of(error, "it broke off the connection")


async def _content(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > _MAX_ANSWER_BYTES:
            raise UnavailableError("the answer is larger than a controller's can be")
    return bytes(content)


def _answer(status: int, content: bytes) -> JsonValue:
    try:
        answer: Any = json.loads(content) if content else None
    except ValueError:
        raise UnavailableError(f"answered with status {status}, and not with JSON") from None
    if status < _ERRORS:
        return cast("JsonValue", answer)
    try:
        first = answer["errors"][0]
        code, message = str(first["code"]), str(first["message"])
    except (LookupError, TypeError):
        code, message = "UNKNOWN", f"A controller answered with status {status}."
    if status == _UNAVAILABLE:
        raise UnavailableError(message)
    raise ApiError(status, code, message)


if TYPE_CHECKING:
    _: type[Controllers] = HttpControllers
