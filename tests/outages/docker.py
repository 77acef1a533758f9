"""A client that pushes and pulls as docker does, with what docker tries again and what it does not.

Docker (moby 20.10 to 27, `distribution/xfer`) tries a layer five times in both directions, waiting
five seconds longer each time: after a lost connection, a 5xx and most other errors, but not after
401, 403 or 429. A layer that it pushes starts over with a new upload session; one that it pulls
goes on with a Range. The first ping, the token and the manifest are tried once: an error there is
a failed push or pull.
"""

import asyncio
import hashlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import httpx
from tests.outages.images import MANIFEST_TYPE, Image, digest_of

ATTEMPTS = 5
BACKOFF_SECONDS = 1.0  # docker's is 5: whoever gets through with 1 gets through with more
NEVER_AGAIN = frozenset({401, 403, 429})
_PIECE_BYTES = 65_536
_TIMEOUT_SECONDS = 120.0
_AT_ONCE = 3  # layers; docker's `max-concurrent-uploads` is 5, on machines with more cores


class DockerError(Exception):
    """What docker's user sees: the push or pull failed, after all that docker tries."""


class RawError(Exception):
    """One request that got no answer, or a wrong one."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Record:
    """What one kind of client went through."""

    done: int = 0
    longest_wait: float = 0.0
    """Of a single request, from sending it to the end of its answer, in seconds."""
    slowest: str = ""
    """Which request that was."""
    raw_errors: list[str] = field(default_factory=list)
    """Requests that failed: what a client that tries nothing again would have met."""
    failures: list[str] = field(default_factory=list)
    """Pushes or pulls that docker would have given up."""

    def waited(self, seconds: float, what: str) -> None:
        """Remember the longest."""
        if seconds > self.longest_wait:
            self.longest_wait, self.slowest = seconds, what


@dataclass(frozen=True)
class HttpOptions:
    """How clients connect."""

    verify: ssl.SSLContext | bool = True
    keeps_connections: bool = True
    """Docker's daemon does not: each of its requests has a connection of its own."""

    def client(self, url: str) -> httpx.AsyncClient:
        """Give a client of one address, which the caller closes."""
        limits = httpx.Limits(max_keepalive_connections=None if self.keeps_connections else 0)
        return httpx.AsyncClient(
            base_url=url,
            trust_env=False,
            timeout=_TIMEOUT_SECONDS,
            verify=self.verify,
            limits=limits,
        )


class Docker:
    """One docker daemon, logged in to one registry."""

    def __init__(
        self, url: str, account: tuple[str, str], record: Record, http: HttpOptions | None = None
    ) -> None:
        self._account = account
        self._record = record
        self._http = (http or HttpOptions()).client(url)

    async def push(self, repository: str, tag: str, image: Image) -> None:
        """Push an image.

        Raises:
            DockerError: docker would have given up.

        """
        try:
            token = await self._login(repository)
            session = _Session(self._http, self._record, token, f"/v2/{repository}")
            await _each([partial(session.push_blob, blob) for blob in image.blobs.values()])
            await session.put_manifest(tag, image.payload)
        except RawError as error:
            raise DockerError(f"push {repository}:{tag}: {error}") from error
        self._record.done += 1

    async def pull(self, repository: str, tag: str, image: Image) -> None:
        """Pull an image and compare it.

        Raises:
            DockerError: docker would have given up, or what came was something else.

        """
        try:
            token = await self._login(repository)
            session = _Session(self._http, self._record, token, f"/v2/{repository}")
            if digest_of(await session.get_manifest(tag)) != image.digest:
                raise DockerError(f"pull {repository}:{tag}: this is another manifest")
            await _each([partial(session.pull_blob, digest) for digest in image.blobs])
        except RawError as error:
            raise DockerError(f"pull {repository}:{tag}: {error}") from error
        self._record.done += 1

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _login(self, repository: str) -> str:
        ask = _Session(self._http, self._record, "", "")
        await ask.request("GET", "/v2/", wanted=401)
        scope = f"repository:{repository}:pull,push"
        answer = await ask.request(
            "GET",
            "/auth/token",
            wanted=200,
            params={"service": "dtr", "scope": scope},
            auth=self._account,
        )
        return str(answer.json()["token"])


@dataclass(frozen=True)
class _Session:
    """What one push or pull asks, with its token."""

    http: httpx.AsyncClient
    record: Record
    token: str
    base: str

    async def push_blob(self, content: bytes) -> None:
        await self._patiently(lambda: self._push_once(content))

    async def pull_blob(self, digest: str) -> None:
        hashed, size = hashlib.sha256(), 0

        async def pull_once() -> None:
            nonlocal size
            async for piece in self._blob(digest, size):
                hashed.update(piece)
                size += len(piece)

        await self._patiently(pull_once)
        if f"sha256:{hashed.hexdigest()}" != digest:
            raise DockerError(f"{self.base}@{digest}: other bytes came")

    async def put_manifest(self, tag: str, payload: bytes) -> None:
        headers = {"Content-Type": MANIFEST_TYPE}
        path = f"{self.base}/manifests/{tag}"
        await self.request("PUT", path, wanted=201, headers=headers, content=payload)

    async def get_manifest(self, tag: str) -> bytes:
        headers = {"Accept": MANIFEST_TYPE}
        path = f"{self.base}/manifests/{tag}"
        return (await self.request("GET", path, wanted=200, headers=headers)).content

    async def request(
        self,
        method: str,
        path: str,
        *,
        wanted: int,
        headers: dict[str, str] | None = None,
        **rest: object,
    ) -> httpx.Response:
        """Send one request and read its whole answer.

        Raises:
            RawError: there was none, or another one was wanted.

        """
        bearer = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        started = time.monotonic()
        try:
            answer = await self.http.request(
                method,
                path,
                headers={**bearer, **(headers or {})},
                **rest,  # type: ignore[arg-type]
            )
        except httpx.TransportError as error:
            raise self._failed(f"{method} {path}: {error!r}", started) from error
        self.record.waited(time.monotonic() - started, f"{method} {path}")
        if answer.status_code != wanted:
            message = f"{method} {path}: {answer.status_code} {answer.text[:200]}"
            raise self._failed(message, started, answer.status_code)
        return answer

    async def _push_once(self, content: bytes) -> None:
        digest = digest_of(content)
        try:
            await self.request("HEAD", f"{self.base}/blobs/{digest}", wanted=200)
        except RawError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
        else:
            return
        answer = await self.request("POST", f"{self.base}/blobs/uploads/", wanted=202)
        location = answer.headers["Location"]
        answer = await self.request("PATCH", location, wanted=202, content=_pieces(content))
        closing = httpx.URL(answer.headers["Location"]).copy_add_param("digest", digest)
        await self.request("PUT", str(closing), wanted=201)

    async def _blob(self, digest: str, start: int) -> AsyncIterator[bytes]:
        """Yield a blob's bytes from `start` on, past a redirection to where the bytes are."""
        path = f"{self.base}/blobs/{digest}"
        headers = {"Authorization": f"Bearer {self.token}"}
        if start:
            headers["Range"] = f"bytes={start}-"
        started = time.monotonic()
        try:
            async with self.http.stream(
                "GET", path, headers=headers, follow_redirects=True
            ) as answer:
                if answer.status_code != (206 if start else 200):
                    message = f"GET {path}: {answer.status_code}"
                    raise self._failed(message, started, answer.status_code)
                async for piece in answer.aiter_bytes():
                    yield piece
        except httpx.TransportError as error:
            raise self._failed(f"GET {path}: {error!r}", started) from error
        self.record.waited(time.monotonic() - started, f"GET {path}")

    async def _patiently(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Try a layer as often as docker does."""
        for number in range(1, ATTEMPTS + 1):
            try:
                await attempt()
            except RawError as error:
                if number == ATTEMPTS or error.status in NEVER_AGAIN:
                    raise
                await asyncio.sleep(number * BACKOFF_SECONDS)
            else:
                return

    def _failed(self, message: str, started: float, status: int = 0) -> RawError:
        """Return the error; that a blob is not there yet is none that anybody would count."""
        self.record.waited(time.monotonic() - started, message)
        if status != httpx.codes.NOT_FOUND or not message.startswith("HEAD"):
            self.record.raw_errors.append(message)
        return RawError(message, status)


async def _each(steps: list[Callable[[], Awaitable[None]]]) -> None:
    """Run the steps, a few at once; the first error ends all."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def run(step: Callable[[], Awaitable[None]]) -> None:
        async with slots:
            await step()

    tasks = [asyncio.create_task(run(step)) for step in steps]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    """Yield the content in pieces, as docker sends it: chunked, of no announced length."""
    for start in range(0, len(content), _PIECE_BYTES):
        yield content[start : start + _PIECE_BYTES]
