"""One upload on its way to several replicas at once."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import (
    DigestInvalidError,
    RegistryError,
    StorageFullError,
    UnavailableError,
    UploadUnknownError,
)
from dtr.storage.pieces import Pieces, add_piece
from dtr.storage.port import CHUNK_BYTES, BlobWriter, Progress
from dtr.storage.replicated.legs import Leg, bring
from dtr.storage.replicated.names import Place, StagedName
from dtr.storage.replicated.peers import PeerUnreachableError
from dtr.storage.replicated.placement import needed
from dtr.storage.replicated.protocol import Then
from dtr.storage.replicated.staging import Start

if TYPE_CHECKING:
    from dtr.storage.replicated.store import ReplicatedBlobStore

_HASHED_BYTES_PER_SECOND = 50 << 20
"""What a slow disk reads: a holder that does not know its bytes' digest reads them to commit."""


class ReplicatedWriter:
    """Gathers a mebibyte and hands it to every holder; waits only for those that are far behind.

    Holders are as many serving replicas as acknowledge a commit of the metadata. One that fails, or
    stalls while another could take its place, is replaced: what it missed is read from a holder
    that has it. `_known` is what this writer goes on from, under a name that it never changes;
    `_name` is its own, which `flush` seals: what comes after is written under a further name.
    """

    def __init__(
        self,
        store: "ReplicatedBlobStore",
        upload_id: str,
        algorithm: Algorithm,
        progress: Progress,
    ) -> None:
        self._store = store
        self._upload_id = upload_id
        self._algorithm = algorithm
        self._known = progress
        self._place = Place.parse(progress.state) if progress.offset else None
        self._offset = self._handed = progress.offset
        self._gathered: Pieces = []
        self._name: StagedName | None = None
        self._legs: list[Leg] = []
        self._lost: set[str] = set()
        # Those that failed under this name. They may be asked again under it, so that they are told
        # to forget what they have only when it is decided who holds it.
        self._failed: set[str] = set()
        self._attempts: Counter[str] = Counter()
        self._wake = asyncio.Event()
        self._own: list[tuple[StagedName, tuple[str, ...]]] = []
        self._replaced: list[tuple[StagedName, tuple[str, ...]]] = []
        self._failure: RegistryError | None = None
        self._key = ""
        self._holders: tuple[str, ...] = ()
        self._is_closed = False

    @property
    def offset(self) -> int:
        """Bytes taken so far."""
        return self._offset

    @property
    def holders(self) -> tuple[str, ...]:
        """The replicas that have what was committed."""
        return self._holders

    async def append(self, chunk: bytes) -> None:
        """Gather; wait only while a holder is far behind."""
        add_piece(self._gathered, chunk)
        self._offset += len(chunk)
        if self._offset - self._handed >= CHUNK_BYTES:
            await self._decide(self._send)

    async def flush(self) -> Progress:
        """Return when as many replicas as needed have everything durably; the state names them."""
        if self._name is None and not self._gathered:
            return self._known
        await self._decide(self._seal)
        return self._known

    async def recorded(self) -> None:
        """Delete what holders have under the names that the recorded one has replaced."""
        self._own.clear()
        replaced, self._replaced = self._replaced, []
        await self._forget(replaced)

    async def commit(self, digest: Digest) -> str:
        """Have every holder verify what it has, and make it a blob."""
        await self._decide(lambda: self._commit(digest))
        await self.close()
        return self._key

    async def withdraw(self) -> None:
        """Delete the blob, whose key is this writer's alone."""
        if self._key:
            await self._store.delete(self._key)

    async def close(self) -> None:
        """Forget what was not flushed, on every replica that was sent it."""
        if self._is_closed:
            return
        self._is_closed = True
        self._gathered.clear()
        await asyncio.gather(*(leg.end(self._store.pace.stall_seconds) for leg in self._legs))
        if self._name is not None and not self._key:
            sent = self._failed.union(leg.replica for leg in self._legs)
            await self._forget([(self._name, tuple(sent))])

    async def cancel(self) -> None:
        """Delete what this writer wrote and nobody recorded."""
        await self.close()
        if not self._key:
            own, self._own = self._own, []
            await self._forget(own)

    async def _decide(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do `step` whole, or nothing after it: nothing is flushed or committed around a hole."""
        if self._failure is not None:
            raise self._failure
        try:
            await step()
        except DigestInvalidError:
            raise  # the bytes are there, to be committed as something else
        except RegistryError as error:
            self._failure = error
            raise
        except BaseException:
            self._failure = UnavailableError("the upload was interrupted")
            raise

    async def _send(self) -> None:
        """Hand what is gathered to the holders, and wait for those that are far behind."""
        self._hand_over()
        await self._staff()
        while any(leg.is_full for leg in self._legs):
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._store.pace.stall_seconds / 4):
                    await self._wake.wait()
            self._dismiss_stalled([leg for leg in self._legs if leg.is_full])
            await self._staff()

    def _hand_over(self) -> None:
        if self._name is None:
            self._begin()
        content = b"".join(self._gathered)
        self._gathered.clear()
        self._handed = self._offset
        if content:
            for leg in self._legs:
                leg.put(content)

    def _begin(self) -> None:
        """Choose a name, and the first holders: of those who have the bytes so far, or us."""
        self._name = StagedName.new(self._upload_id)
        self._attempts.clear()
        first = self._place.holders if self._place is not None else ()
        count = needed(self._store.members)
        for replica in self._store.candidates(first)[:count]:
            if self._place is None or replica in self._place.holders:
                self._legs.append(self._leg(replica))

    def _leg(self, replica: str) -> Leg:
        """Return a leg that begins where its replica's bytes end, or at nothing."""
        assert self._name is not None  # noqa: S101 - begun
        start = Start(self._algorithm)
        if self._has_beginning(replica) and self._place is not None:
            before = StagedName(self._upload_id, self._place.nonce)
            start = Start(self._algorithm, before, self._known.offset, self._known.digest)
        attempt = self._attempts[replica]
        self._attempts[replica] += 1
        disk = self._store.disk(replica)
        return Leg(replica, disk, self._name, start, self._wake, attempt=attempt)

    def _has_beginning(self, replica: str) -> bool:
        place = self._place
        return place is not None and replica in place.holders and replica not in self._lost

    def _dismiss_stalled(self, legs: list[Leg], seconds: float = 0) -> None:
        """End legs that do not move: soon, where another replica could take their place.

        They are given `seconds` more than a chunk's time, for what reads everything once more.
        """
        used = {leg.replica for leg in self._legs}
        spare = [each for each in self._store.candidates(()) if each not in used]
        if all(self._store.is_down(each) for each in spare):
            seconds += self._store.pace.patience_seconds
        for leg in legs:
            self._end_stalled(leg, seconds)

    def _end_stalled(self, leg: Leg, seconds: float = 0) -> None:
        if leg.has_stalled(self._store.pace.stall_seconds + seconds):
            self._store.note_down(leg.replica)
            leg.give_up(PeerUnreachableError(f"replica {leg.replica} is too slow"))

    async def _staff(self) -> None:
        """Have as many legs that live as are needed, each with all bytes handed over so far.

        Raises:
            UnavailableError: fewer replicas than needed answered for all our patience.
            StorageFullError: those that answer have no room.
            UploadUnknownError: no replica has the upload's bytes any more.

        """
        failures = self._bury()
        count = needed(self._store.members)
        deadline = time.monotonic() + self._store.pace.patience_seconds
        while len(self._legs) < count:
            for replica in self._spare():
                failure = await self._enlist(replica)
                if failure is None:
                    break
                failures[replica] = failure
            else:
                self._raise_hopeless(failures)
                if time.monotonic() >= deadline:
                    raise UnavailableError(
                        f"{count} replicas must hold new content, and only "
                        f"{len(self._legs)} can be written to"
                    ) from next(iter(failures.values()), None)
                await asyncio.sleep(self._store.pace.retry_seconds)
            failures.update(self._bury())

    def _bury(self) -> dict[str, RegistryError]:
        """Let go of legs that failed; return why, by replica."""
        failed: dict[str, RegistryError] = {}
        for leg in self._legs:
            if leg.failure is not None:
                failed[leg.replica] = leg.failure
        self._lost |= {each for each, why in failed.items() if isinstance(why, UploadUnknownError)}
        self._failed |= failed.keys()
        self._legs = [leg for leg in self._legs if leg.failure is None]
        return failed

    def _raise_hopeless(self, failures: dict[str, RegistryError]) -> None:
        """Raise what no waiting helps against: no room anywhere, or bytes that nobody has."""
        is_lost = not self._legs and self._handed > self._known.offset
        for kind in (StorageFullError, UploadUnknownError):
            found = [each for each in failures.values() if isinstance(each, kind)]
            if found and (is_lost or len(found) == len(failures)):
                raise found[0]
        if is_lost and failures:
            raise next(iter(failures.values()))

    def _spare(self) -> list[str]:
        """Return who could take part besides: those who have the beginning, then the others."""
        used = {leg.replica for leg in self._legs}
        first = self._place.holders if self._place is not None else ()
        return [each for each in self._store.candidates(first) if each not in used]

    async def _enlist(self, replica: str) -> RegistryError | None:
        """Add a leg with everything that was handed over so far; return why that failed."""
        leg = self._leg(replica)
        catching_up = asyncio.create_task(self._catch_up(leg))
        try:
            while not catching_up.done():
                await asyncio.wait({catching_up}, timeout=self._store.pace.stall_seconds / 4)
                for each in (leg, *self._legs):
                    self._end_stalled(each)
            catching_up.result()
        except RegistryError as error:
            leg.give_up(error)
        finally:
            catching_up.cancel()
        await leg.settle()
        if leg.failure is None:
            self._legs.append(leg)
            return None
        self._failed.add(replica)
        if isinstance(leg.failure, UploadUnknownError):
            self._lost.add(replica)
        return leg.failure

    async def _catch_up(self, leg: Leg) -> None:
        """Bring to a leg what others have: the beginning, then what this writer received."""
        if leg.position < self._known.offset and self._place is not None:
            before = StagedName(self._upload_id, self._place.nonce)
            holders = [each for each in self._place.holders if self._has_beginning(each)]
            if not holders:
                raise UploadUnknownError(upload=self._upload_id)
            await self._from_any(leg, [(each, before) for each in holders], self._known.offset)
        assert self._name is not None  # noqa: S101 - begun
        if leg.position < self._handed:
            sources = []
            for other in self._legs:
                await other.finish(Then.WRITE)
                if other.failure is None:
                    sources.append((other.replica, self._name))
            await self._from_any(leg, sources, self._handed)
        # Perhaps nothing was asked of it yet, and it shall not be counted on hearsay.
        await leg.finish(Then.WRITE)

    async def _from_any(self, leg: Leg, sources: list[tuple[str, StagedName]], stop: int) -> None:
        """Bring bytes from one source after the other, until all are there.

        Raises:
            UnavailableError: no source has them that answers.

        """
        failure: RegistryError = UnavailableError("no replica has what was received until now")
        for replica, name in sorted(sources, key=lambda each: self._store.is_down(each[0])):
            try:
                return await bring(leg, self._store.disk(replica), name, stop)
            except UploadUnknownError as error:
                self._lost.add(replica)
                failure = error
            except RegistryError as error:
                failure = error
        raise failure

    async def _finish(self, then: Then, digest: Digest | None = None) -> dict[str, Any]:
        """Do `then` at all holders at once; return their answers, or a refusal, by replica."""
        answers: dict[str, Any] = {}
        while True:
            await self._staff()
            legs = [leg for leg in self._legs if leg.replica not in answers]
            if not legs:
                return answers
            for leg, answer in zip(legs, await self._finished(legs, then, digest), strict=True):
                if leg.failure is None:
                    answers[leg.replica] = answer
            if then is Then.COMMIT and any(isinstance(each, dict) for each in answers.values()):
                return answers

    async def _finished(self, legs: list[Leg], then: Then, digest: Digest | None) -> list[Any]:
        """Return the legs' answers, or refusals; one that stalls is ended where that helps."""
        tasks = {asyncio.create_task(leg.finish(then, digest)): leg for leg in legs}
        pending = set(tasks)
        extra = self._offset / _HASHED_BYTES_PER_SECOND
        try:
            while pending:
                _, pending = await asyncio.wait(pending, timeout=self._store.pace.stall_seconds / 4)
                self._dismiss_stalled([tasks[each] for each in pending], extra)
        finally:
            for task in pending:
                task.cancel()
        return [task.exception() or task.result() for task in tasks]

    async def _seal(self) -> None:
        self._hand_over()
        answers = await self._finish(Then.FLUSH)
        digests = {answer["digest"] for answer in answers.values()}
        # Known is only what every holder has found of its own bytes.
        found = digests.pop() if len(digests) == 1 else None
        assert self._name is not None  # noqa: S101 - begun
        holders = tuple(answers)
        self._replace_known()
        self._own.append((self._name, holders))
        self._place = Place(self._name.nonce, holders)
        self._known = Progress(self._offset, found and Digest(found), str(self._place))
        self._forget_failed(holders)
        self._name, self._legs = None, []

    def _forget_failed(self, holders: Collection[str]) -> None:
        """Have those that failed, and hold nothing in the end, forget what they were sent."""
        assert self._name is not None  # noqa: S101 - decided under this name
        self._store.forget_later(self._name, sorted(self._failed.difference(holders)))
        self._failed.clear()

    def _replace_known(self) -> None:
        if self._place is not None:
            before = StagedName(self._upload_id, self._place.nonce)
            self._replaced.append((before, self._place.holders))

    async def _commit(self, digest: Digest) -> None:
        self._hand_over()
        answers = await self._finish(Then.COMMIT, digest)
        committed = {each: found for each, found in answers.items() if isinstance(found, dict)}
        if not committed:
            raise next(iter(answers.values()))
        key = str(next(iter(committed.values()))["key"])
        try:
            holders = await self._copied(key, digest, list(committed))
        except BaseException:
            await self._store.delete(key)
            raise
        self._replace_known()
        self._key, self._holders = key, tuple(holders)
        self._failed.update(leg.replica for leg in self._legs)
        self._forget_failed(committed)

    async def _copied(self, key: str, digest: Digest, holders: list[str]) -> list[str]:
        """Copy what too few replicas have committed; return all that have it then.

        Raises:
            UnavailableError, StorageFullError: not enough replicas take it.

        """
        deadline = time.monotonic() + self._store.pace.patience_seconds
        while len(holders) < (count := needed(self._store.members)):
            failures = {}
            for replica in self._store.candidates(()):
                if replica in holders or len(holders) >= count:
                    continue
                try:
                    await self._store.copy(key, self._offset, digest, holders, replica)
                except RegistryError as error:
                    failures[replica] = error
                else:
                    holders.append(replica)
            if len(holders) < count and time.monotonic() >= deadline:
                raise UnavailableError(
                    f"{count} replicas must hold new content, and only {len(holders)} do"
                ) from next(iter(failures.values()), None)
            if len(holders) < count:
                await asyncio.sleep(self._store.pace.retry_seconds)
        return holders

    async def _forget(self, names: list[tuple[StagedName, tuple[str, ...]]]) -> None:
        """Delete staged bytes; who does not answer in a moment is not waited for."""
        for name, replicas in names:
            await self._store.forget(name, replicas)


if TYPE_CHECKING:
    _: type[BlobWriter] = ReplicatedWriter
