"""One response: a status, headers, and bytes, a file or a stream."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from dtr.asgi.request import Scope, Send

JSON = b"application/json"


class Response:
    """What a handler answers.

    The body is one of `body`, `file` (a whole file of `length` bytes, sent by the server without
    passing through Python where it can) and `stream` (exactly `length` bytes). `length` may be set
    without any of them to describe what HEAD leaves out.
    """

    __slots__ = ("body", "file", "headers", "length", "status", "stream")

    def __init__(
        self,
        status: int = 200,
        *,
        headers: Mapping[bytes, bytes] | None = None,
        body: bytes = b"",
        file: Path | None = None,
        stream: AsyncIterator[bytes] | None = None,
        length: int | None = None,
    ) -> None:
        self.status = status
        self.headers: list[tuple[bytes, bytes]] = list(headers.items()) if headers else []
        self.body = body
        self.file = file
        self.stream = stream
        self.length = len(body) if length is None else length

    @classmethod
    def json(
        cls, document: Any, status: int = 200, *, headers: Mapping[bytes, bytes] | None = None
    ) -> "Response":
        """Answer with `document` as JSON; a Content-Type in `headers` replaces the usual one."""
        body = orjson.dumps(document)
        return cls(status, headers={b"content-type": JSON, **(headers or {})}, body=body)

    @classmethod
    def text(cls, text: str, status: int = 200) -> "Response":
        """Answer with plain text."""
        return cls(
            status, headers={b"content-type": b"text/plain; charset=utf-8"}, body=text.encode()
        )

    def add(self, name: bytes, value: str) -> None:
        """Add a header."""
        self.headers.append((name, value.encode("latin-1")))

    async def send(self, scope: Scope, send: Send) -> None:
        """Send it all; without the body for HEAD.

        A stream that fails leaves the response unfinished: the connection is cut, so that the
        client sees that it is short (design 5.10).
        """
        if self.status not in {204, 304}:
            self.headers.append((b"content-length", b"%d" % self.length))
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body"})
        elif self.file is not None:
            await _send_file(self.file, self.length, scope, send)
        elif self.stream is not None:
            async for chunk in self.stream:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body"})
        else:
            await send({"type": "http.response.body", "body": self.body})


async def _send_file(file: Path, length: int, scope: Scope, send: Send) -> None:
    if "http.response.pathsend" in (scope.get("extensions") or {}):
        await send({"type": "http.response.pathsend", "path": str(file)})
        return
    # Servers without the extension are those of tests: simple is enough.
    with file.open("rb") as source:
        while chunk := source.read(1 << 20):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            length -= len(chunk)
    await send({"type": "http.response.body"})
