"""Whether a bucket can hold blobs, found by doing with it what the driver does."""

import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress

from dtr.model.errors import ContentDamagedError, RegistryError, UnavailableError
from dtr.storage.bucket import Bucket
from dtr.storage.multipart import Multiparts
from dtr.storage.retrying import ObjectStoreError

_FOLDER = "check"
_CONTENT = b"dtr checks whether this bucket can hold blobs"


async def check_bucket(bucket: Bucket, multiparts: Multiparts | None) -> None:
    """Write an object, read it, list and delete it; begin and abort a multipart upload.

    Raises:
        UnavailableError: the message says which of these failed and why.

    """
    name = f"{_FOLDER}/{uuid.uuid4()}"
    steps: list[tuple[str, Callable[[], Awaitable[None]]]] = [
        ("write an object", lambda: bucket.put(name, _CONTENT)),
        ("read it back", lambda: _read(bucket, name, 0)),
        ("read a part of it", lambda: _read(bucket, name, 4)),
        ("list it", lambda: _list(bucket, name)),
        ("delete it", lambda: bucket.delete(name)),
    ]
    if multiparts is not None:
        steps.append(("begin and abort a multipart upload", lambda: _multipart(multiparts, name)))
    done = False
    try:
        for step, call in steps:
            try:
                await call()
            except (RegistryError, ObjectStoreError) as error:
                raise _failed(bucket, step, error) from error
        done = True
    finally:
        if not done:
            with suppress(RegistryError, ObjectStoreError):
                await bucket.delete(name)


async def _read(bucket: Bucket, name: str, start: int) -> None:
    found = b"".join([chunk async for chunk in bucket.read(name, start, len(_CONTENT))])
    if found != _CONTENT[start:]:
        raise ContentDamagedError("other bytes than were written")


async def _list(bucket: Bucket, name: str) -> None:
    if name not in [found.name async for found in bucket.walk(_FOLDER)]:
        raise ContentDamagedError("the object is not in the list")


async def _multipart(multiparts: Multiparts, name: str) -> None:
    await multiparts.abort(name, await multiparts.create(name))


def _failed(bucket: Bucket, step: str, error: Exception) -> UnavailableError:
    reason = error.__cause__ if isinstance(error.__cause__, ObjectStoreError) else error
    return UnavailableError(
        f"the storage {bucket.location} cannot be used: it failed to {step} ({reason}); "
        "check the bucket, the endpoint, the credentials in the environment and what they may do"
    )
