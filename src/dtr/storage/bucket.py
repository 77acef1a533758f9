"""A bucket of an object store, through obstore: every request is asked again for a while.

Nothing is connected, and no thread is started, before the first request: processes are forked from
one that has opened its drivers.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from dtr.model.errors import ContentDamagedError, UnavailableError
from dtr.model.location import StorageLocation
from dtr.storage.credentials import s3_credentials
from dtr.storage.port import CHUNK_BYTES
from dtr.storage.retrying import Failure, ObjectStoreError, Patience, unavailable, unreached

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

T = TypeVar("T")

CONNECT_SECONDS = 5
READ_SECONDS = 30
_REQUEST_SECONDS = 600
_PAUSE_SECONDS = 0.1
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]{1,100})</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,300})</Message>")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object, its name without the location's prefix."""

    name: str
    size: int
    modified_at: float


class Bucket:
    """Objects below the location's prefix.

    At most `connections` requests are under way at once; the others wait for their turn. A download
    counts while its bytes are read, not while its client is waited for.
    """

    def __init__(
        self, location: StorageLocation, patience: Patience, *, connections: int = 64
    ) -> None:
        self.location = location
        self.patience = patience
        self.connections = connections
        self._turns = asyncio.Semaphore(connections)

    async def put(self, name: str, content: bytes) -> None:
        """Make an object of `content`."""
        await self._ask(
            "write",
            lambda: obstore.put_async(self._store, name, content, use_multipart=False),
        )

    async def put_stream(
        self, name: str, stream: AsyncIterator[bytes], *, part_bytes: int, in_flight: int
    ) -> None:
        """Make an object of a stream, which cannot be asked for again when this fails."""
        # It waits for no turn: the stream may be one that is read from here.
        try:
            await obstore.put_async(
                self._store,
                name,
                stream,
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=in_flight,
            )
        except (BaseError, OSError, ValueError) as error:
            problem = _translated("write", error)
            raise unavailable("write", problem) from problem

    async def read(self, name: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """Stream the bytes from `start` up to `stop`; where the stream breaks, it goes on there.

        Raises:
            ContentDamagedError: there is no such object, or it is shorter.

        """
        position, broken_at = start, None
        while position < stop:
            stream = await self._open(name, position, stop)
            try:
                while position < stop:
                    chunk = await self._next(stream)
                    if not chunk:
                        raise ContentDamagedError("stored content is shorter than it was")
                    position += len(chunk)
                    broken_at = None
                    yield chunk
            except ObjectStoreError as error:
                broken_at = broken_at or time.monotonic()
                waited = time.monotonic() - broken_at
                if error.failure is not Failure.TRANSIENT or waited > self.patience.seconds:
                    raise UnavailableError("the object store stopped answering") from error
                await asyncio.sleep(_PAUSE_SECONDS)

    async def size(self, name: str) -> int | None:
        """Return the object's size, or None when there is none."""
        try:
            found = await self._ask("look", lambda: obstore.head_async(self._store, name))
        except ObjectStoreError:
            return None
        return found["size"]

    async def delete(self, *names: str) -> None:
        """Delete objects; those that are not there are no error."""
        if names:
            await self._ask("delete", lambda: obstore.delete_async(self._store, list(names)))

    async def walk(self, folder: str) -> AsyncIterator[StoredObject]:
        """List the objects in a folder, which is a whole part of names, in the order of names."""
        last: str | None = None
        while page := await self._ask("list", partial(self._page, folder, last)):
            for found in page:
                modified_at = found["last_modified"].timestamp()
                yield StoredObject(found["path"], found["size"], modified_at)
            last = page[-1]["path"]

    async def sign(self, name: str, seconds: float) -> str:
        """Return a URL that reads the object without credentials, for `seconds`."""
        lifetime = timedelta(seconds=seconds)
        return await self._ask(
            "sign", lambda: obstore.sign_async(self._store, "GET", name, lifetime)
        )

    async def check(self) -> None:
        """Ask once for what need not be there."""
        try:
            await self._once("answer", lambda: obstore.head_async(self._store, "blobs"))
        except ObjectStoreError as error:
            if error.failure is not Failure.MISSING:
                raise UnavailableError(f"the object store does not answer: {error}") from error

    def close(self) -> None:
        """Let go of the connections."""
        self.__dict__.pop("_store", None)

    async def _page(self, folder: str, after: str | None) -> list[Any]:
        stream = obstore.list(self._store, folder, offset=after, chunk_size=1000)
        return list(await anext(aiter(stream), []))

    async def _open(self, name: str, start: int, stop: int) -> Any:
        try:
            found = await self._ask(
                "read",
                lambda: obstore.get_async(self._store, name, options={"range": (start, stop)}),
            )
        except ObjectStoreError:
            raise ContentDamagedError("stored content is missing or cut") from None
        return aiter(found.stream(CHUNK_BYTES))

    async def _next(self, stream: Any) -> bytes | None:
        chunk: bytes | None = await self._once("read", lambda: anext(stream, None))
        return None if chunk is None else bytes(chunk)

    async def _ask(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        return await self.patience.ask(operation, lambda: self._once(operation, call))

    async def _once(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Ask without patience; what obstore raises ends here."""
        async with self._turns:
            try:
                return await call()
            except (BaseError, OSError, ValueError) as error:
                raise _translated(operation, error) from error

    @cached_property
    def _store(self) -> AzureStore | GCSStore | S3Store:
        location = self.location
        client: ClientConfig = {
            "allow_http": location.endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=READ_SECONDS),
            "timeout": timedelta(seconds=_REQUEST_SECONDS),
            "pool_max_idle_per_host": str(self.connections),
        }
        # Patience is ours, but what streams into obstore only obstore can send again.
        is_streamed = location.scheme != "s3"
        retries: RetryConfig = {
            "max_retries": 100 if is_streamed else 2,
            "retry_timeout": timedelta(seconds=self.patience.seconds if is_streamed else 5),
            "backoff": {"max_backoff": timedelta(seconds=1)},
        }
        given: dict[str, Any] = {"prefix": location.prefix or None, "client_options": client}
        given["retry_config"] = retries
        if location.endpoint:
            given["endpoint"] = location.endpoint
        if location.scheme == "azure":
            return AzureStore(location.container, account_name=location.account, **given)
        if location.scheme == "gs":
            return GCSStore(location.container, **given)
        if location.region:
            given["region"] = location.region
        if provider := s3_credentials():
            given["credential_provider"] = provider
        return S3Store(location.container, unsigned_payload=not client["allow_http"], **given)


def _translated(operation: str, error: Exception) -> ObjectStoreError:
    """Return what an error of obstore means; its own text is long and holds whole answers."""
    text = str(error)
    found = _STATUS.search(text)
    status = int(found[1]) if found else 0
    code, message = _CODE.search(text), _MESSAGE.search(text)
    reason = ": ".join(match[1] for match in (code, message) if match)
    if isinstance(error, FileNotFoundError) or status == 416:  # noqa: PLR2004
        is_about_bucket = code is not None and code[1] == "NoSuchBucket"
        failure = Failure.LASTING if is_about_bucket or operation == "write" else Failure.MISSING
    elif status in {401, 403}:
        failure = Failure.REFUSED
    elif status in {405, 501}:
        failure = Failure.LASTING  # it does not know the operation
    elif status >= 500 or status in {0, 408, 429}:  # noqa: PLR2004
        failure = Failure.TRANSIENT
    else:
        failure = Failure.LASTING
    shown = " ".join(part for part in (f"HTTP {status}" if status else "", reason) if part)
    return ObjectStoreError(failure, shown or unreached(text))
