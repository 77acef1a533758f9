"""One request straight into the application: for what no client library would send."""

import asyncio
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dtr.asgi.request import Message
from dtr.server.application import Application


@dataclass
class Answer:
    """What the application sent."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str:
        """Return a header's text, or nothing."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key == wanted), "")

    def json(self) -> Any:
        """Return the body, parsed."""
        return json.loads(self.body)


async def ask(
    application: Application,
    method: str,
    path: str,
    *,
    query: bytes = b"",
    headers: Sequence[tuple[bytes, bytes]] = (),
    body: Iterable[bytes] = (),
    peer: str = "127.0.0.1",
    is_cut: bool = False,
) -> Answer:
    """Send one request, a piece whenever it is read; `is_cut`: its client goes away at the end."""
    last: Message = {"type": "http.disconnect"} if is_cut else {"type": "http.request", "body": b""}
    messages: Iterator[Message] = itertools.chain(
        ({"type": "http.request", "body": piece, "more_body": True} for piece in body), [last]
    )
    answer = Answer()

    async def receive() -> Message:
        message = next(messages, None)
        if message is None:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")
        return message

    async def send(message: Message) -> None:
        match message["type"]:
            case "http.response.start":
                answer.status = message["status"]
                answer.headers = list(message["headers"])
            case "http.response.body":
                answer.body += message.get("body", b"")

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "query_string": query,
        "headers": _with_host(headers),
        "client": (peer, "40000"),
        "server": ("127.0.0.1", 5000),
    }
    await application(scope, receive, send)
    return answer


async def pause_forever(
    application: Application, method: str, path: str, headers: Sequence[tuple[bytes, bytes]]
) -> Answer:
    """Send the head and a first byte of a request, and then nothing for ever."""
    return await dribble(application, method, path, headers, pause_seconds=None)


async def dribble(
    application: Application,
    method: str,
    path: str,
    headers: Sequence[tuple[bytes, bytes]],
    *,
    query: bytes = b"",
    pause_seconds: float | None = 0.05,
) -> Answer:
    """Send a request whose body never ends: a byte after each pause, or one and no more."""
    answer = Answer()
    has_sent = False

    async def receive() -> Message:
        nonlocal has_sent
        if has_sent and pause_seconds is None:
            await asyncio.Event().wait()
        elif has_sent:
            await asyncio.sleep(pause_seconds or 0)
        has_sent = True
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = list(message["headers"])
        else:
            answer.body += message.get("body", b"")

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "query_string": query,
        "headers": _with_host(headers),
        "client": ("127.0.0.1", "40000"),
        "server": ("127.0.0.1", 5000),
    }
    await application(scope, receive, send)
    return answer


def _with_host(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    lines = [(name.lower(), value) for name, value in headers]
    return lines if any(name == b"host" for name, _ in lines) else [(b"host", b"a.test"), *lines]
