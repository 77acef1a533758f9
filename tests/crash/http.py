"""A client that knows whether it was answered."""

import http.client
import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self


class UnansweredError(Exception):
    """The connection broke before the whole answer was here: nobody knows what was done."""


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The OCI error code, or nothing where the body is not such an envelope."""
        try:
            return str(json.loads(self.body)["errors"][0]["code"])
        except (ValueError, LookupError, TypeError):
            return ""

    def __str__(self) -> str:
        return f"{self.status} {self.body[:300]!r}"


class Http:
    """One connection at a time, with basic authentication, opened anew when it broke."""

    def __init__(
        self, host: str, port: int, user: str, password: str, *, seconds: float = 30
    ) -> None:
        self._place = (host, port)
        self._seconds = seconds
        encoded = b64encode(f"{user}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {encoded}"}
        self._connection: http.client.HTTPConnection | None = None

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request; an iterable body goes out with chunked transfer encoding.

        Raises:
            UnansweredError: there was no whole answer.

        """
        if self._connection is None:
            self._connection = http.client.HTTPConnection(*self._place, timeout=self._seconds)
        is_chunked = body is not None and not isinstance(body, bytes)
        sent: dict[str, Any] = {**self._headers, **(headers or {})}
        if is_chunked:
            sent["Transfer-Encoding"] = "chunked"
        try:
            # A server that refuses early closes while we are sending: its answer is there.
            with suppress(BrokenPipeError, ConnectionResetError):
                self._connection.request(method, path, body, sent, encode_chunked=is_chunked)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise UnansweredError(f"{method} {path}: {error!r}") from error
        if response.will_close or (body and response.status >= 400):
            self.close()  # who refuses a body without reading it hangs up afterwards
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, content)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
