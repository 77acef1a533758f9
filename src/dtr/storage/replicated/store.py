"""Blobs on the replicas' own disks: as many of them hold a blob as acknowledge a metadata commit.

    ROOT/uploads/UPLOAD_ID.NONCE                    staged, private
    ROOT/blobs/sha256/ab/abcd….UPLOAD_ID.NONCE      committed; the same key on every holder

Each replica's disk is that of the filesystem driver, and blobs never change, so there is nothing to
agree on but which replicas hold what: the metadata keep that (`blob_holders`), written with the row
that makes a blob readable. Uploads name their holders in `Progress.state`.

This replica writes to its own disk by itself and to others over `peer_server`; it reads what it has
from its own disk, and all else from whichever holder answers first.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import (
    ContentDamagedError,
    InvalidError,
    RegistryError,
    UnavailableError,
    UnsupportedError,
)
from dtr.model.members import Members, MembersFile
from dtr.storage.filesystem import FilesystemBlobStore
from dtr.storage.port import BlobStore, BlobWriter, Capability, Progress, StoredBlob
from dtr.storage.replicated.legs import Disk, OwnDisk, PeerDisk
from dtr.storage.replicated.listing import merged, page_of
from dtr.storage.replicated.names import STAGED, StagedName
from dtr.storage.replicated.peers import Pace, Peers
from dtr.storage.replicated.placement import candidates, needed, order
from dtr.storage.replicated.reading import Wanted, read_from_peers, size_at_peers
from dtr.storage.replicated.sessions import Sessions
from dtr.storage.replicated.writer import ReplicatedWriter
from dtr.storage.replication import Replication

_LOG = structlog.get_logger()


class ReplicatedBlobStore:
    """Blobs on `local`, which is this replica's own, and on those of the other members."""

    capabilities = frozenset({Capability.EARLY_KEYS, Capability.PLACEMENT})

    def __init__(
        self,
        local: FilesystemBlobStore,
        replication: Replication,
        *,
        pace: Pace = Pace(),  # noqa: B008 - it is frozen
        connections: int = 64,
        observe: Callable[[str, float], None] | None = None,
    ) -> None:
        self.local = local
        self.pace = pace
        self._peers = Peers(
            MembersFile(replication.members_file),
            replication.credentials,
            pace,
            connections=connections,
            observe=observe or (lambda _operation, _seconds: None),
        )
        self._sessions = Sessions(local)
        self._later: set[asyncio.Task[None]] = set()

    @property
    def members(self) -> Members:
        """The replicas as the members file has them now."""
        return self._peers.members

    async def begin(self, upload_id: str, algorithm: Algorithm) -> BlobWriter:
        """Begin an upload; holders are chosen with its first bytes."""
        return ReplicatedWriter(self, upload_id, algorithm, Progress())

    async def resume(self, upload_id: str, algorithm: Algorithm, progress: Progress) -> BlobWriter:
        """Go on where the holders are; none of them is asked yet."""
        return ReplicatedWriter(self, upload_id, algorithm, progress)

    async def discard(
        self,
        upload_id: str,
        progress: Progress = Progress(),  # noqa: B008 - it is frozen
    ) -> None:
        """Delete what was staged for an upload that is over; the sweep finds what is left."""
        if not progress.state:
            return
        await self._sessions.forget_all(upload_id)
        await self._at_peers(lambda replica: self._peers.forget(replica, upload_id))

    async def read(
        self, key: str, *, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """Stream from this disk where it can, else from the peer that answers first."""
        if stop is None:
            stop = await self.size(key)
            if stop is None:
                raise ContentDamagedError("stored content is missing")
        position = start
        with suppress(ContentDamagedError, UnavailableError):
            async with aclosing(self.local.read(key, start=start, stop=stop)) as chunks:
                async for chunk in chunks:
                    yield chunk
                    position += len(chunk)
                return
        peers = order(key, [each.id for each in self.members.peers])
        wanted = Wanted(key, position, stop)
        patience = self.pace.read_seconds
        reading = read_from_peers(self._peers, peers, wanted, wait_seconds=patience)
        async with aclosing(reading) as chunks:
            async for chunk in chunks:
                yield chunk

    async def size(self, key: str) -> int | None:
        """Return the size here, or at any peer.

        Raises:
            UnavailableError: nobody has it who answers, and not all answer.

        """
        found = await self.local.size(key)
        if found is not None:
            return found
        return await size_at_peers(self._peers, [each.id for each in self.members.peers], key)

    async def delete(self, key: str) -> None:
        """Delete here and wherever a peer answers; the sweep finds what is left elsewhere."""
        if key.startswith(STAGED):
            name = StagedName.parse(key.removeprefix(STAGED))
            await self._sessions.forget(name)
            await self._at_peers(lambda replica: self._peers.forget(replica, name))
            return
        await self.local.delete(key)
        await self._at_peers(lambda replica: self._peers.delete(replica, key))

    async def walk(self) -> AsyncIterator[StoredBlob]:
        """Find what any replica holds, also staged; a replica that does not answer is missed."""
        pages = [partial(page_of, self.local)]
        pages += [partial(self._page, member.id) for member in self.members.peers]
        async for stored in merged(pages):
            yield stored

    async def walk_uploads(self) -> AsyncIterator[StoredBlob]:
        """Find nothing: `walk` finds what is staged, too."""
        for nothing in list[StoredBlob]():
            yield nothing

    def path(self, key: str) -> Path:
        """Refuse: not every blob is here."""
        raise UnsupportedError(key=key)

    def local_path(self, key: str) -> Path | None:
        """Return the file where this replica holds the blob."""
        path = self.local.path(key)
        return path if path.exists() else None

    async def redirect_url(self, key: str, seconds: float) -> str:
        """Refuse: clients cannot reach the disks."""
        raise UnsupportedError(key=key, seconds=seconds)

    async def check_room(self) -> None:
        """Refuse where this disk is full, and so were the others when they answered last."""
        peers = [each for each in self.candidates(()) if each != self.members.own_id]
        if all(map(self._peers.is_tight, peers)):
            await self.local.check_room()

    async def adopt(
        self, key: str, stream: AsyncIterator[bytes], size: int, digest: Digest
    ) -> None:
        """Write here, or where there is no place for it to the first peer, then to others."""
        await self.delete(key)
        holders: list[str] = []
        chosen = self.candidates(())
        if not chosen:
            raise UnavailableError("no replica accepts new content")
        try:
            await self._adopt_at(chosen[0], key, stream, size, digest)
            holders.append(chosen[0])
            for replica in chosen[1:]:
                if len(holders) >= needed(self.members):
                    break
                with suppress(UnavailableError):
                    await self.copy(key, size, digest, holders, replica)
                    holders.append(replica)
        except BaseException:
            await self.delete(key)
            raise
        if len(holders) < needed(self.members):
            await self.delete(key)
            raise UnavailableError("too few replicas accept new content")

    async def heal(self, key: str, size: int, digest: Digest) -> bool:
        """Take a verified copy of a peer's; scrubs of other replicas do the same on their disks."""
        try:
            await self.fetch(key, size, digest)
        except ContentDamagedError:
            return False
        return True

    async def check(self) -> None:
        """Look whether this replica's disk answers: without the others it still serves pulls."""
        await self.local.check()

    async def check_by_use(self) -> None:
        """Use this replica's disk, and look at what it needs to speak with the others."""
        try:
            members = self.members
            self._peers.check_credentials()
        except InvalidError as error:
            raise UnavailableError(str(error)) from None
        if members.own is None:
            raise UnavailableError(
                f"replica {members.own_id} is not a member of its cluster any more; "
                "its copies do not count, and the other replicas refuse it"
            )
        await self.local.check_by_use()

    async def close(self) -> None:
        """Finish what is under way and let go of connections and threads."""
        if self._later:
            await asyncio.wait(self._later, timeout=self.pace.answer_seconds)
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)
        await self._sessions.close_idle(0)
        await self._peers.close()
        await self.local.close()

    # What writers and jobs use.

    def disk(self, replica: str) -> Disk:
        """Return where a replica keeps staged bytes."""
        if replica == self.members.own_id:
            return OwnDisk(self._sessions)
        return PeerDisk(self._peers, replica)

    def is_down(self, replica: str) -> bool:
        """Whether a replica did not answer a moment ago."""
        return self._peers.is_down(replica)

    def note_down(self, replica: str) -> None:
        """Have a replica asked only when nobody else can be, for a while."""
        self._peers.note_down(replica)

    def candidates(self, first: Sequence[str]) -> list[str]:
        """Return who may be sent new bytes, best first: those of `first`, then this replica."""
        members = self.members

        def rank(replica: str) -> tuple[bool, bool, bool, bool, float]:
            is_own = replica == members.own_id
            is_tight = (
                self.local.free_bytes() < self.pace.tight_bytes
                if is_own
                else self._peers.is_tight(replica)
            )
            spread = random.random()  # noqa: S311 - spreads load
            return (self.is_down(replica), replica not in first, is_tight, not is_own, spread)

        return sorted(candidates(members), key=rank)

    async def forget(self, name: StagedName, replicas: Collection[str]) -> None:
        """Have replicas delete staged bytes; who does not answer in a moment is not waited for."""
        tasks = [self._forget(name, replica) for replica in replicas]
        if tasks:
            await asyncio.wait(tasks, timeout=self.pace.hedge_seconds)

    def forget_later(self, name: StagedName, replicas: Collection[str]) -> None:
        """Have replicas delete staged bytes, without waiting."""
        for replica in replicas:
            self._forget(name, replica)

    def _forget(self, name: StagedName, replica: str) -> asyncio.Task[None]:
        async def forget() -> None:
            with suppress(RegistryError):
                await self.disk(replica).forget(name)

        task = asyncio.create_task(forget())
        self._later.add(task)
        task.add_done_callback(self._later.discard)
        return task

    async def copy(
        self, key: str, size: int, digest: Digest, holders: Collection[str], replica: str
    ) -> None:
        """Have a replica take over a blob that `holders` have, verified there by its digest.

        Raises:
            ContentDamagedError: no holder has it whole.
            UnavailableError: one of those that are needed does not answer.
            StorageFullError: there is no room.

        """
        own = self.members.own_id
        if own in holders:
            stream: AsyncIterator[bytes] = self.local.read(key, stop=size)
        else:
            peers = [each for each in order(key, holders) if each != own]
            stream = read_from_peers(self._peers, peers, Wanted(key, 0, size))
        await self._adopt_at(replica, key, stream, size, digest)

    async def fetch(self, key: str, size: int, digest: Digest) -> str:
        """Take a verified copy from any peer that has one; return which.

        What is here under the key is replaced, and until then it stays.

        Raises:
            ContentDamagedError: every peer answered, and none has the blob whole.
            UnavailableError: none of those that answer has it.
            StorageFullError: there is no room.

        """
        failure: RegistryError = ContentDamagedError("no replica has the complete content")
        peers = order(key, [each.id for each in self.members.peers])
        for replica in sorted(peers, key=self.is_down):
            try:
                await self.copy(key, size, digest, [replica], self.members.own_id)
            except ContentDamagedError:
                continue
            except UnavailableError as error:
                failure = error
            else:
                return replica
        raise failure

    async def _adopt_at(
        self,
        replica: str,
        key: str,
        stream: AsyncIterator[bytes],
        size: int,
        digest: Digest,
    ) -> None:
        if replica != self.members.own_id:
            await self._peers.adopt(replica, key, stream, size, digest)
            return
        await self.local.run("adopt", lambda: self.local.check_bytes(size))
        await self.local.adopt(key, stream, size, digest)

    async def _page(self, replica: str, after: str) -> list[StoredBlob]:
        try:
            return await self._peers.page(replica, after)
        except RegistryError as error:
            _LOG.warning("a replica's blobs are not seen", replica=replica, error=str(error))
            return []

    async def _at_peers(self, do: Callable[[str], Awaitable[Any]]) -> None:
        """Do something at every peer that answers."""
        asked = [do(each.id) for each in self.members.peers if not self._peers.is_down(each.id)]
        for found in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(found, BaseException) and not isinstance(found, RegistryError):
                raise found


if TYPE_CHECKING:
    _: type[BlobStore] = ReplicatedBlobStore
