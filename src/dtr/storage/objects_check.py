"""Whether a bucket can hold blobs, found by doing with it what the driver does."""

import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress

from dtr.model.errors import ContentDamagedError, RegistryError, UnavailableError
from dtr.storage.bucket import Bucket
from dtr.storage.multipart import Multiparts, OpenMultipart
from dtr.storage.retrying import ObjectStoreError, is_refused

_FOLDER = "check"
_CONTENT = b"dtr checks whether this bucket can hold blobs"


async def check_bucket(bucket: Bucket, multiparts: Multiparts | None) -> bool:
    """Try every operation that uploads, downloads and collection use.

    Return whether an object can be put together from others (UploadPartCopy): without that, and
    without it alone, there is another way.

    Raises:
        UnavailableError: the message says which of the others failed and why.

    """
    name = f"{_FOLDER}/{uuid.uuid4()}"
    steps: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        ("write an object (PutObject)", lambda: bucket.put(name, _CONTENT)),
        ("read it back (GetObject)", lambda: _read(bucket, name, 0)),
        ("read a part of it (GetObject with Range)", lambda: _read(bucket, name, 4)),
        ("tell its size (HeadObject)", lambda: _size(bucket, name)),
        ("list it (ListObjectsV2)", lambda: _list(bucket, name)),
    ]
    trial = _Multipart(bucket, multiparts, name) if multiparts is not None else None
    if trial is not None:
        steps += trial.steps
    steps.append(("delete it (DeleteObjects)", lambda: bucket.delete(name)))
    done = False
    try:
        for step, call in steps:
            try:
                await call()
            except (RegistryError, ObjectStoreError) as error:
                raise _failed(bucket, step, error) from error
        done = True
    finally:
        if trial is not None:
            await trial.clean()
        if not done:
            with suppress(RegistryError, ObjectStoreError):
                await bucket.delete(name)
    return trial is not None and trial.can_copy


class _Multipart:
    """Tries multipart uploads, beside an object that is there under `name`."""

    def __init__(self, bucket: Bucket, multiparts: Multiparts, name: str) -> None:
        self.can_copy = True
        self._bucket = bucket
        self._multiparts = multiparts
        self._source = name
        self._name = f"{name}.parts"
        self._id = self._etag = ""

    @property
    def steps(self) -> list[tuple[str, Callable[[], Awaitable[object]]]]:
        """What is tried, in this order; each step goes on from the one before it."""
        return [
            ("begin a multipart upload (CreateMultipartUpload)", self._begin),
            ("send a part of it (UploadPart)", self._put),
            ("list multipart uploads (ListMultipartUploads)", self._list),
            ("list its parts (ListParts)", self._list_parts),
            ("complete it (CompleteMultipartUpload)", self._complete),
            ("begin another one (CreateMultipartUpload)", self._begin),
            ("make a part of an object (UploadPartCopy)", self._copy),
            ("give it up (AbortMultipartUpload)", self._abort),
        ]

    async def clean(self) -> None:
        """Leave nothing, as far as storage answers."""
        with suppress(RegistryError, ObjectStoreError):
            if self._id:
                await self._multiparts.abort(self._name, self._id)
            await self._bucket.delete(self._name)

    async def _begin(self) -> None:
        self._id = await self._multiparts.create(self._name)

    async def _put(self) -> None:
        self._etag = await self._multiparts.put(self._name, self._id, 1, _CONTENT)

    async def _list(self) -> None:
        async for _ in self._multiparts.walk(self._name):
            pass

    async def _list_parts(self) -> None:
        size, _ = await self._multiparts.parts(OpenMultipart(self._name, self._id, 0))
        if size != len(_CONTENT):
            raise ContentDamagedError("the part is not in the list")

    async def _complete(self) -> None:
        await self._multiparts.complete(self._name, self._id, [self._etag], len(_CONTENT))
        self._id = ""
        await _read(self._bucket, self._name, 0)

    async def _copy(self) -> None:
        """Copy a range; one that a store refuses for good, or takes for the whole, is missing.

        Raises:
            UnavailableError: the store fails at it, which may be for a moment only.

        """
        part = (4, len(_CONTENT))
        try:
            await self._multiparts.copy(self._name, self._id, 1, self._source, part)
            size, _ = await self._multiparts.parts(OpenMultipart(self._name, self._id, 0))
            self.can_copy = size == len(_CONTENT) - 4
        except (RegistryError, ObjectStoreError) as error:
            if not is_refused(error):
                raise
            self.can_copy = False

    async def _abort(self) -> None:
        await self._multiparts.abort(self._name, self._id)
        self._id = ""


async def _read(bucket: Bucket, name: str, start: int) -> None:
    found = b"".join([chunk async for chunk in bucket.read(name, start, len(_CONTENT))])
    if found != _CONTENT[start:]:
        raise ContentDamagedError("other bytes than were written")


async def _list(bucket: Bucket, name: str) -> None:
    if name not in [found.name async for found in bucket.walk(_FOLDER)]:
        raise ContentDamagedError("the object is not in the list")


async def _size(bucket: Bucket, name: str) -> None:
    if await bucket.size(name) != len(_CONTENT):
        raise ContentDamagedError("it has another one")


def _failed(bucket: Bucket, step: str, error: Exception) -> UnavailableError:
    reason = error.__cause__ if isinstance(error.__cause__, ObjectStoreError) else error
    return UnavailableError(
        f"the storage {bucket.location} cannot be used: it failed to {step} ({reason}); "
        "check the bucket, the endpoint, the credentials in the environment and what they may do"
    )
