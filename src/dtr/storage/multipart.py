"""Multipart uploads of S3, request by request, through aiobotocore.

obstore has them only as one stream whose parts are all of one size, which its end must follow.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from dtr.storage.bucket import CONNECT_SECONDS, READ_SECONDS, Bucket
from dtr.storage.retrying import Failure, ObjectStoreError, unreached

T = TypeVar("T")

_THROTTLED = frozenset({"SlowDown", "RequestTimeout", "ThrottlingException", "Throttling"})
_MISSING = frozenset({"NoSuchUpload", "NoSuchKey", "404"})
_UNKNOWN = frozenset({"NotImplemented", "MethodNotAllowed"})
_NOT_DONE = frozenset({405, 501})
_FIRST_ERROR_OF_SERVER = 500
_REFUSALS = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class OpenMultipart:
    """A multipart upload that was neither completed nor aborted, as S3 lists it."""

    name: str
    id: str
    begun_at: float


class Multiparts:
    """The multipart uploads below a bucket's prefix."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._location = bucket.location
        self._patience = bucket.patience
        self._opening = asyncio.Lock()
        self._resources = AsyncExitStack()
        self._client: Any = None

    async def create(self, name: str) -> str:
        """Begin an upload to `name`; return its id."""
        answer = await self._ask("write", "create_multipart_upload", Key=self._key(name))
        return str(answer["UploadId"])

    async def put(self, name: str, upload_id: str, number: int, content: bytes) -> str:
        """Send part `number`; return its ETag."""
        answer = await self._ask(
            "write",
            "upload_part",
            Key=self._key(name),
            UploadId=upload_id,
            PartNumber=number,
            Body=content,
            ContentLength=len(content),
        )
        return str(answer["ETag"])

    async def copy(
        self, name: str, upload_id: str, number: int, source: str, part: tuple[int, int]
    ) -> str:
        """Make part `number` of a range of another object; return its ETag."""
        start, stop = part
        answer = await self._ask(
            "write",
            "upload_part_copy",
            Key=self._key(name),
            UploadId=upload_id,
            PartNumber=number,
            CopySource={"Bucket": self._location.container, "Key": self._key(source)},
            CopySourceRange=f"bytes={start}-{stop - 1}",
        )
        return str(answer["CopyPartResult"]["ETag"])

    async def complete(self, name: str, upload_id: str, etags: Sequence[str], size: int) -> None:
        """Make the object of these very parts.

        Where the answer to an earlier try was lost the upload is gone, and the object is there: no
        other upload has this name.
        """
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)]
        try:
            await self._ask(
                "write",
                "complete_multipart_upload",
                Key=self._key(name),
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
            )
        except ObjectStoreError:
            if await self._bucket.size(name) != size:
                raise

    async def abort(self, name: str, upload_id: str) -> None:
        """Throw the parts away; idempotent."""
        key = self._key(name)
        try:
            await self._ask("delete", "abort_multipart_upload", Key=key, UploadId=upload_id)
        except ObjectStoreError:
            return  # there is none

    async def walk(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        """List those whose name begins with `prefix`."""
        after: dict[str, str] = {}
        while True:
            answer = await self._ask(
                "list", "list_multipart_uploads", Prefix=self._key(prefix), **after
            )
            for found in answer.get("Uploads", ()):
                name = found["Key"].removeprefix(self._key(""))
                yield OpenMultipart(name, found["UploadId"], found["Initiated"].timestamp())
            if not answer.get("IsTruncated"):
                return
            after = {
                "KeyMarker": answer["NextKeyMarker"],
                "UploadIdMarker": answer["NextUploadIdMarker"],
            }

    async def parts(self, upload: OpenMultipart) -> tuple[int, float]:
        """Return how many bytes an upload has, and when the last of them came."""
        size, last, after = 0, upload.begun_at, 0
        while True:
            try:
                answer = await self._ask(
                    "list",
                    "list_parts",
                    Key=self._key(upload.name),
                    UploadId=upload.id,
                    PartNumberMarker=after,
                )
            except ObjectStoreError:
                return 0, last  # there is none: completed or aborted while we looked
            for part in answer.get("Parts", ()):
                size += part["Size"]
                last = max(last, part["LastModified"].timestamp())
            if not answer.get("IsTruncated"):
                return size, last
            after = int(answer["NextPartNumberMarker"])

    async def close(self) -> None:
        """Let go of the connections."""
        self._client = None
        await self._resources.aclose()

    def _key(self, name: str) -> str:
        prefix = self._location.prefix
        return f"{prefix}/{name}" if prefix else name

    async def _ask(self, operation: str, method: str, **parameters: Any) -> Any:
        client = await self._connected()
        call = getattr(client, method)
        bucket = self._location.container
        return await self._patience.ask(
            operation, lambda: _once(lambda: call(Bucket=bucket, **parameters))
        )

    async def _connected(self) -> Any:
        async with self._opening:
            if self._client is None:
                self._client = await self._resources.enter_async_context(self._new_client())
        return self._client

    def _new_client(self) -> Any:
        from aiobotocore.config import AioConfig  # noqa: PLC0415 - 40 MiB that many never need

        location = self._location
        config = AioConfig(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=self._bucket.connections,
            # Patience is ours.
            retries={"total_max_attempts": 1, "mode": "standard"},
            # Servers that are not Amazon's may not know the newer checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={
                "addressing_style": "path" if location.endpoint else "auto",
                "payload_signing_enabled": location.endpoint.startswith("http://"),
            },
        )
        return _session().create_client(
            "s3",
            region_name=location.region or None,
            endpoint_url=location.endpoint or None,
            config=config,
        )


@cache
def _session() -> Any:
    """Return the session of this process, which keeps what it has read of S3's description."""
    from aiobotocore.session import get_session  # noqa: PLC0415 - see above

    return get_session()


async def _once(call: Callable[[], Awaitable[T]]) -> T:
    """Ask without patience; what botocore raises ends here."""
    from aiohttp import ClientError as ConnectionFailedError  # noqa: PLC0415 - see above
    from botocore.exceptions import (  # noqa: PLC0415
        BotoCoreError,
        ClientError,
        NoCredentialsError,
    )

    try:
        return await call()
    except ClientError as error:
        raise _translated(error) from error
    except NoCredentialsError as error:
        raise ObjectStoreError(Failure.REFUSED, unreached("credential")) from error
    except (BotoCoreError, ConnectionFailedError, OSError, TimeoutError) as error:
        raise ObjectStoreError(Failure.TRANSIENT, unreached(str(error))) from error


def _translated(error: Any) -> ObjectStoreError:
    answer = error.response.get("Error", {})
    code = str(answer.get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _MISSING:
        failure = Failure.MISSING
    elif code in _UNKNOWN or status in _NOT_DONE:
        failure = Failure.LASTING
    elif code in _THROTTLED or status >= _FIRST_ERROR_OF_SERVER:
        failure = Failure.TRANSIENT
    elif status in _REFUSALS:
        failure = Failure.REFUSED
    else:
        failure = Failure.LASTING
    return ObjectStoreError(failure, f"HTTP {status} {code}: {answer.get('Message', '')}")
