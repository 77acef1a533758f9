"""Bytes that are what they are said to be, or end in an error."""

import asyncio
from collections.abc import AsyncIterator

from dtr.model.digest import Digest
from dtr.model.errors import ContentDamagedError


async def verified(stream: AsyncIterator[bytes], digest: Digest) -> AsyncIterator[bytes]:
    """Yield the stream; its end is an error unless all of it has this digest.

    Raises:
        ContentDamagedError: it has not.

    """
    hasher = digest.algorithm.hasher()
    async for chunk in stream:
        await asyncio.to_thread(hasher.update, chunk)
        yield chunk
    if hasher.hexdigest() != digest.encoded:
        raise ContentDamagedError("content to copy has another digest", digest=str(digest))
