"""Bring over what another registry has, verified, the way a push would bring it.

Blobs first, then children, then what refers to them, tags last: a client never finds half of an
image, and an import that was cut off goes on when it is run again, for what is here already is
passed over. A tag that a client has pushed since is the client's. What could not be had this time
is never taken for something that the source does not have.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from dtr.database import Database
from dtr.model.access import Visibility
from dtr.model.digest import Digest
from dtr.model.errors import (
    DigestInvalidError,
    ManifestInvalidError,
    NameInvalidError,
    TagInvalidError,
    TooLargeError,
)
from dtr.model.manifests import Manifest, parse_manifest
from dtr.model.names import RepositoryName, TagName, parse_account_name
from dtr.registry import records as registry
from dtr.registry.context import RegistrySettings
from dtr.registry.push import PushedManifest
from dtr.registry.records import Blob
from dtr.storage import BlobStore
from dtr.transfer import records
from dtr.transfer.outcome import Lack, Outcome, said
from dtr.transfer.source import (
    NotThereError,
    RepositoryUnknownError,
    Source,
    SourceError,
    SourceManifest,
)

_DEEPEST: Final = 8
"""Indexes of indexes of ...; and artifacts that refer to artifacts that ..."""
_MOST_PROVEN: Final = 500_000

Link = Callable[[Path, Digest], Awaitable[str | None]]
"""Makes a file a blob without copying it; gives its key, or None where that cannot be done."""


@dataclass(frozen=True, slots=True)
class ImportSettings:
    """What an operator says about an import.

    `prefix` goes before every name, as a namespace; `owner` may administer namespaces that are not
    its own; `concurrency` is how many blobs of a manifest are brought at once.
    """

    prefix: str = ""
    owner: str | None = None
    visibility: Visibility = Visibility.PRIVATE
    overwrite_tags: bool = False
    dry_run: bool = False
    concurrency: int = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that was not imported, and why."""

    repository: str
    subject: str
    reason: str


@dataclass(slots=True)
class Imported:
    """What an import has done so far: what it brought, and what was here before (`present`)."""

    repositories: int = 0
    tags: int = 0
    tags_present: int = 0
    manifests: int = 0
    manifests_present: int = 0
    blobs: int = 0
    blobs_linked: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Place:
    """The repository that content goes to; its id is 0 in a dry run where it is not here yet."""

    source: str
    name: RepositoryName
    id: int


class Importer:
    """One import, of all that `source` has."""

    def __init__(
        self,
        source: Source,
        database: Database,
        store: BlobStore,
        limits: RegistrySettings,
        settings: ImportSettings,
        *,
        link: Link | None = None,
        observe: Callable[[Imported], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._database = database
        self._store = store
        self._limits = limits
        self._settings = settings
        self._link = link
        self._observe = observe or (lambda _done: None)
        self._clock = clock
        self._done = Imported()
        self._seen: dict[Digest, Outcome] = {}
        # What the source does not give as a blob.
        self._absent: set[Digest] = set()
        self._here: _Place | None = None
        # Blobs whose bytes the source has shown: another repository of it may have them, too. What
        # the source merely names could be somebody else's.
        self._proven: set[bytes] = set()
        self._slots = asyncio.Semaphore(settings.concurrency)

    async def run(self, repositories: Sequence[str] = ()) -> Imported:
        """Import these repositories, or all; return what was done, and what was not and why.

        Raises:
            UnavailableError: the source, the database or the storage is away for too long. Run it
                again later: it goes on where it was.

        """
        if repositories:
            for name in repositories:
                await self._repository(name)
        else:
            async for name in self._source.repositories():
                await self._repository(name, is_listed=True)
        return self._done

    @property
    def done(self) -> Imported:
        """What was done so far, also where `run` ended with an error."""
        return self._done

    async def _repository(self, name: str, *, is_listed: bool = False) -> None:
        try:
            target = self._target(name)
        except NameInvalidError as error:
            self._fail(name, "the repository", str(error))
            return
        self._seen, self._absent = {}, set()
        try:
            async for tag in self._source.tags(name):
                await self._tag(await self._place(name, target), tag)
            async for digest in self._source.untagged(name):
                await self._untagged(await self._place(name, target), digest)
        except RepositoryUnknownError as error:
            if not is_listed:
                self._fail(name, "the repository", said(error))
            # Else it has blobs and nothing that needs them: some registries answer that with 404.
        except (SourceError, OSError) as error:
            self._fail(name, "the repository", said(error))
        self._done.repositories += self._here is not None
        self._here = None
        self._observe(self._done)

    def _target(self, name: str) -> RepositoryName:
        """Return what a repository is called here: the same, below the prefix if there is one.

        Raises:
            NameInvalidError: nothing can be called so here.

        """
        RepositoryName.parse(name)
        prefix = self._settings.prefix.strip("/")
        target = RepositoryName.parse(f"{prefix}/{name}" if prefix else name)
        try:
            parse_account_name(target.namespace)
        except NameInvalidError as error:
            message = f"the namespace would be {target.namespace}: {error}; use --prefix"
            raise NameInvalidError(message) from None
        return target

    async def _place(self, name: str, target: RepositoryName) -> _Place:
        """Return where the repository is here, made when the first of its content comes."""
        if self._here is None:
            self._here = await self._made(name, target)
        return self._here

    async def _made(self, name: str, target: RepositoryName) -> _Place:
        if self._settings.dry_run:
            found = await self._database.read(registry.find_repository, target)
            return _Place(name, target, found.id if found else 0)
        repository = await self._database.write(
            records.prepare_repository, target, self._settings.visibility, self._settings.owner
        )
        return _Place(name, target, repository.id)

    async def _tag(self, place: _Place, name: str) -> None:
        try:
            tag = TagName.parse(name)
            found = await self._manifest_of(place, tag)
            if await self._keep(place, found, _DEEPEST) is not Outcome.HERE:
                self._fail(place.source, name, f"its manifest {found.digest} was not imported")
            elif await self._may_move(place, tag, found.digest):
                await self._put(place, found, [tag])
                self._done.tags += 1
        except (SourceError, TagInvalidError, OSError) as error:
            self._fail(place.source, name[:200], said(error))
        self._observe(self._done)

    async def _untagged(self, place: _Place, digest: Digest) -> None:
        if digest in self._seen:
            return
        try:
            await self._keep(place, await self._manifest_of(place, digest), _DEEPEST)
        except (SourceError, OSError) as error:
            self._fail(place.source, digest, said(error))
        self._observe(self._done)

    async def _may_move(self, place: _Place, tag: TagName, digest: Digest) -> bool:
        """Tell whether the tag is to be put; one that a client put elsewhere is left alone."""
        if not place.id:
            return True
        here = await self._database.read(records.find_tag, place.id, tag)
        if here is None or (here.digest != digest and not here.is_pushed):
            return True
        if here.digest == digest:
            self._done.tags_present += 1
            return False
        if not self._settings.overwrite_tags:
            reason = f"a client has pushed {here.digest} since; --overwrite-tags replaces it"
            self._fail(place.source, tag, reason)
        return self._settings.overwrite_tags

    async def _manifest_of(self, place: _Place, reference: TagName | Digest) -> SourceManifest:
        limit = self._limits.manifest_bytes
        return await self._source.manifest(place.source, reference, limit=limit)

    async def _keep(self, place: _Place, found: SourceManifest, depth: int) -> Outcome:
        """Bring a manifest with everything that it needs; return what became of it."""
        if found.digest not in self._seen:
            self._seen[found.digest] = await self._keep_new(place, found, depth)
        return self._seen[found.digest]

    async def _keep_new(self, place: _Place, found: SourceManifest, depth: int) -> Outcome:
        try:
            manifest = parse_manifest(found.payload, found.media_type, self._limits.manifest)
        except ManifestInvalidError as error:
            self._fail(place.source, found.digest, str(error))
            return Outcome.LOST
        if not depth:
            self._fail(place.source, found.digest, f"it is nested deeper than {_DEEPEST}")
            return Outcome.LOST
        is_here = await self._is_here(place, found.digest)
        parts = await self._parts(place, found.digest, manifest, depth)
        if parts is Outcome.FAILED or (parts is Outcome.LOST and not is_here):
            return parts
        if is_here:
            self._done.manifests_present += 1
        else:
            await self._put(place, found, [])
            self._done.manifests += 1
            parts = await self._bring_again(place, found.digest, manifest, depth)
            if parts is not Outcome.HERE:
                return parts
        self._seen[found.digest] = Outcome.HERE  # for what refers to it names it, too
        await self._subject(place, found.digest, manifest.subject, depth)
        referrers = await self._referrers(place, found.digest)
        await self._related(place, found.digest, referrers, depth)
        return Outcome.HERE

    async def _subject(
        self, place: _Place, digest: Digest, subject: Digest | None, depth: int
    ) -> None:
        """Bring what a manifest is about, which no tag may name; it need not be there."""
        if subject is None or subject in self._seen:
            return
        try:
            await self._keep(place, await self._manifest_of(place, subject), depth - 1)
        except NotThereError:
            return
        except (SourceError, OSError) as error:
            reason = f"what it is about {subject} could not be brought: {said(error)}"
            self._fail(place.source, digest, reason)

    async def _referrers(self, place: _Place, digest: Digest) -> list[Digest]:
        """Find what refers to a manifest; that not all could be found is a problem of its own."""
        found: list[Digest] = []
        try:
            async for referrer in self._source.referrers(place.source, digest):
                found.append(referrer)  # noqa: PERF401 - what came before a failure counts
        except (SourceError, OSError) as error:
            reason = f"not all that refers to it could be found: {said(error)}"
            self._fail(place.source, digest, reason)
        return found

    async def _parts(
        self, place: _Place, digest: Digest, manifest: Manifest, depth: int
    ) -> Outcome:
        """Bring everything that a manifest refers to; `HERE` where the manifest may be put.

        Each as what its media type says it is, or else as the other: what counts is what the source
        has. An index may lack parts that its source has lost, but none that merely could not be had
        this time; what is nondistributable need not be there, and where it could not be had the
        rest comes all the same.
        """
        lacking = await self._blobs(place, manifest.blobs, optional=manifest.optional)
        for other in list(lacking):
            lack = await self._part(place, other, depth)
            if lack is None and self._seen[other] is Outcome.HERE:
                del lacking[other]
            elif lack is not None and not lack.is_lost:
                lacking[other] = lack
        for other in manifest.children:
            lack = await self._child(place, other, depth)
            if lack is not None:
                lacking[other] = lack
        for other in manifest.optional & lacking.keys():
            self._fail(place.source, digest, f"it has no {other}: {lacking.pop(other).reason}")
        return self._judged(place, digest, manifest, lacking)

    async def _bring_again(
        self, place: _Place, digest: Digest, manifest: Manifest, depth: int
    ) -> Outcome:
        """Bring what collection took between the look at it and the put of what refers to it.

        From the put on, collection leaves alone what the manifest refers to.
        """
        if not place.id or self._settings.dry_run:
            return Outcome.HERE
        parts = [*manifest.blobs, *manifest.children]
        missing = await self._database.read(registry.missing_references, place.id, parts)
        known = {each for each in parts if self._seen.get(each) is Outcome.LOST} | self._absent
        lost = {each for each in missing if each not in known}
        if not lost:
            return Outcome.HERE
        for each in lost:
            self._seen.pop(each, None)
        again = replace(
            manifest,
            blobs=tuple(each for each in manifest.blobs if each in lost),
            children=tuple(each for each in manifest.children if each in lost),
        )
        return await self._parts(place, digest, again, depth)

    def _judged(
        self, place: _Place, digest: Digest, manifest: Manifest, lacking: Mapping[Digest, Lack]
    ) -> Outcome:
        """Return whether a manifest may be put without what it lacks, and list that."""
        if not lacking:
            return Outcome.HERE
        is_lost = all(lack.is_lost for lack in lacking.values())
        if manifest.is_index and is_lost:
            for other, lack in lacking.items():
                self._fail(place.source, digest, f"its part {other} is not there: {lack.reason}")
            return Outcome.HERE
        problems = "; ".join(f"{other}: {lack.reason}" for other, lack in lacking.items())
        self._fail(place.source, digest, f"it lacks {problems}")
        return Outcome.LOST if is_lost else Outcome.FAILED

    async def _child(self, place: _Place, digest: Digest, depth: int) -> Lack | None:
        """Bring what an index or a manifest names as a manifest, which it may not be."""
        lack = await self._part(place, digest, depth)
        if lack is None or digest in self._seen:
            return lack
        as_blob = (await self._blobs(place, [digest])).get(digest)
        if as_blob is None:
            return None
        return lack if as_blob.is_lost or not lack.is_lost else as_blob

    async def _part(self, place: _Place, digest: Digest, depth: int) -> Lack | None:
        """Bring a manifest that another refers to; return why it could not be had.

        None also where it was looked at and found to be lost: then that is listed.
        """
        if digest not in self._seen:
            try:
                await self._keep(place, await self._manifest_of(place, digest), depth - 1)
            except (SourceError, OSError) as error:
                return Lack.of(error)
        if self._seen[digest] is Outcome.FAILED:
            return Lack("not all that it needs could be brought")
        return None

    async def _related(
        self, place: _Place, digest: Digest, related: Sequence[Digest], depth: int
    ) -> None:
        """Bring what refers to a manifest."""
        for other in related:
            lack = await self._part(place, other, depth)
            if lack is not None:
                what = "is not there" if lack.is_lost else "could not be brought"
                message = f"what refers to it {other} {what}: {lack.reason}"
                self._fail(place.source, digest, message)

    async def _is_here(self, place: _Place, digest: Digest) -> bool:
        if not place.id:
            return False
        found = await self._database.read(registry.find_manifest_id, place.id, digest)
        return found is not None

    async def _put(self, place: _Place, found: SourceManifest, tags: Sequence[TagName]) -> None:
        if self._settings.dry_run:
            return
        manifest: Manifest = parse_manifest(found.payload, found.media_type, self._limits.manifest)
        await self._database.write(
            records.add_manifest,
            place.name,
            PushedManifest(found.digest, found.payload, manifest, tags, None),
            now=self._clock(),
            untagged_grace_seconds=self._limits.untagged_grace_seconds,
        )

    async def _blobs(
        self, place: _Place, wanted: Sequence[Digest], *, optional: Collection[Digest] = ()
    ) -> dict[Digest, Lack]:
        """Bring blobs, several at once; return those that could not be brought, and why.

        That an optional one is not there is no reason; that nobody can tell is one.
        """
        missing: Sequence[Digest] = wanted
        if place.id:
            missing = await self._database.read(registry.missing_blobs, place.id, wanted)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {digest: group.create_task(self._blob(place, digest)) for digest in missing}
        except BaseExceptionGroup as error:
            raise error.exceptions[0] from None
        errors = {digest: task.result() for digest, task in tasks.items()}
        return {
            digest: Lack.of(error)
            for digest, error in errors.items()
            if error and not (isinstance(error, NotThereError) and digest in optional)
        }

    async def _blob(self, place: _Place, digest: Digest) -> Exception | None:
        """Bring a blob; return why it could not be brought."""
        async with self._slots:
            try:
                await self._bring(place, digest)
            except (SourceError, DigestInvalidError, TooLargeError, OSError) as error:
                self._absent.add(digest)
                return error
        return None

    async def _bring(self, place: _Place, digest: Digest) -> None:
        path = self._source.blob_path(place.source, digest)
        proof = bytes.fromhex(digest.encoded)
        if proof in self._proven or self._settings.dry_run:
            size = await self._source.blob_size(place.source, digest)  # it must be in this one, too
            if await self._is_linked(place, digest, proof, size):
                return
        key = None
        if path is not None and self._link is not None:
            key = await self._link(path, digest)
        if key is not None and path is not None:
            blob = Blob(digest, path.stat().st_size, key)
            await self._commit(place, blob)
        else:
            blob = await self._stream(place, digest)
        self._count(proof, blob.size, is_hard_link=key is not None)

    async def _is_linked(self, place: _Place, digest: Digest, proof: bytes, size: int) -> bool:
        """Let the repository read a blob that another one brought; a dry run counts it once."""
        if self._settings.dry_run:
            if proof not in self._proven:
                self._count(proof, size, is_hard_link=False)
            return True
        return await self._database.write(
            records.link_known_blob, place.id, digest, review_at=self._review_at()
        )

    async def _stream(self, place: _Place, digest: Digest) -> Blob:
        writer = await self._store.begin(str(uuid.uuid4()), digest.algorithm)
        try:
            async for chunk in self._source.blob(place.source, digest):
                self._check_size(writer.offset + len(chunk))
                await writer.append(chunk)
            size = writer.offset
            key = await writer.commit(digest)
            blob = Blob(digest, size, key, writer.holders)
            await self._commit(place, blob)
            await writer.recorded()
        except BaseException:
            await writer.cancel()
            raise
        finally:
            await writer.close()
        return blob

    def _check_size(self, size: int) -> None:
        if size > self._limits.blob_bytes:
            raise TooLargeError(f"it is larger than {self._limits.blob_bytes} bytes")

    async def _commit(self, place: _Place, blob: Blob) -> None:
        is_used = await self._database.write(
            records.add_blob, place.id, blob, now=self._clock(), review_at=self._review_at()
        )
        if not is_used:
            await self._store.delete(blob.storage_key)

    def _count(self, proof: bytes, size: int, *, is_hard_link: bool) -> None:
        if len(self._proven) >= _MOST_PROVEN:
            self._proven.clear()
        self._proven.add(proof)
        self._done.blobs += 1
        self._done.bytes += size
        self._done.blobs_linked += is_hard_link
        self._observe(self._done)

    def _review_at(self) -> float:
        return self._clock() + self._limits.grace_seconds

    def _fail(self, repository: str, subject: str, reason: str) -> None:
        self._done.problems.append(Problem(repository[:300], subject, reason))
