"""What replicas hold, one page after the other, and what all of them hold together."""

import heapq
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

from dtr.storage.filesystem import FilesystemBlobStore
from dtr.storage.port import StoredBlob
from dtr.storage.replicated.names import STAGED

PAGE = 1000

NextPage = Callable[[str], Awaitable[list[StoredBlob]]]
"""Returns what comes after a key, in the order of keys, at most `PAGE` of it."""


async def page_of(local: FilesystemBlobStore, after: str) -> list[StoredBlob]:
    """Return a page of what is on this disk: committed bytes, then staged ones."""
    found: list[StoredBlob] = []
    if not after.startswith(STAGED):
        async for stored in local.walk(after):
            found.append(stored)
            if len(found) == PAGE:
                return found
    staged = sorted([each async for each in local.walk_uploads()], key=lambda each: each.key)
    for each in staged:
        upload_id = each.key.partition(".")[0]
        named = replace(each, key=f"{STAGED}{each.key}", upload_id=upload_id)
        if named.key > after and len(found) < PAGE:
            found.append(named)
    return found


async def merged(pages: Sequence[NextPage]) -> AsyncIterator[StoredBlob]:
    """Yield what any of the disks holds, once, in the order of keys, in bounded memory."""
    disks = [_Disk(next_page) for next_page in pages]
    heads = [(disk.order, number) for number, disk in enumerate(disks) if await disk.advance()]
    heapq.heapify(heads)
    last = ""
    while heads:
        _, number = heapq.heappop(heads)
        head = disks[number].head
        if head.key != last:
            yield head
            last = head.key
        if await disks[number].advance():
            heapq.heappush(heads, (disks[number].order, number))


class _Disk:
    """One disk's listing, of which `head` is next."""

    def __init__(self, next_page: NextPage) -> None:
        self._next_page = next_page
        self._page: list[StoredBlob] = []
        self._position = -1

    @property
    def head(self) -> StoredBlob:
        return self._page[self._position]

    @property
    def order(self) -> tuple[str, ...]:
        return tuple(self.head.key.split("/"))

    async def advance(self) -> bool:
        """Go on; return False at the end."""
        self._position += 1
        if self._position < len(self._page):
            return True
        if self._page and len(self._page) < PAGE:
            return False
        after = self._page[-1].key if self._page else ""
        self._page, self._position = await self._next_page(after), 0
        return bool(self._page)
