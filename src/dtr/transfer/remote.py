"""A running registry, by its API (distribution-spec; catalog as docker-registry has it)."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from dtr.model.digest import Digest
from dtr.model.errors import DigestInvalidError, UnavailableError
from dtr.model.manifests import INDEX_TYPES, MANIFEST_TYPES
from dtr.model.names import Reference
from dtr.remote import (
    Answer,
    BrokenOffError,
    Credentials,
    RemoteClient,
    RemoteError,
    Targets,
    TooMuchError,
)
from dtr.transfer.source import (
    LostError,
    NotThereError,
    RepositoryUnknownError,
    Source,
    SourceError,
    SourceManifest,
)

T = TypeVar("T")

_ACCEPT: Final = {"Accept": ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))}
_PAGE_BYTES: Final = 16 << 20
_PAGE_ENTRIES: Final = 1000
_MOST_PAGES: Final = 1_000_000
_ATTEMPTS: Final = 5
_PAUSE_SECONDS: Final = 0.5
_SHOWN: Final = 100
_OK: Final = 200
_PARTIAL: Final = 206
_NOT_FOUND: Final = 404


class _StatusError(SourceError):
    """The source answers with another status than was wanted."""

    def __init__(self, message: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _NotThereError(_StatusError, NotThereError):
    """The source answers 404."""


class RemoteRegistry:
    """A source at `https://HOST[:PORT]`, asked as an ordinary client asks.

    Certificates are verified, unless `verify` is false. A request that fails is tried again.
    """

    def __init__(
        self, targets: Targets, *, credentials: Credentials | None = None, verify: bool = True
    ) -> None:
        self._client = RemoteClient(targets, credentials, verify=verify)
        self._has_referrers = False

    async def check(self) -> None:
        """Make sure that there is a registry which lets us in.

        Raises:
            SourceError: there is none, or it does not.
            UnavailableError: nobody answers.

        """
        async with self._get("/v2/"):
            pass

    async def repositories(self) -> AsyncIterator[str]:
        """Page through the catalog; some registries show it to administrators only, or not."""
        async for name in self._listed("/v2/_catalog", "repositories"):
            yield name

    async def tags(self, repository: str) -> AsyncIterator[str]:
        """Page through the tags."""
        try:
            async for name in self._listed(f"/v2/{quote(repository)}/tags/list", "tags"):
                yield name
        except _StatusError as error:
            if error.status == _NOT_FOUND:
                raise RepositoryUnknownError(str(error)) from None
            raise

    async def untagged(self, _repository: str) -> AsyncIterator[Digest]:
        """Find none: the API lists no manifests."""
        none: tuple[Digest, ...] = ()
        for digest in none:
            yield digest

    async def referrers(self, repository: str, subject: Digest) -> AsyncIterator[Digest]:
        """Ask the referrers API; a registry that does not have it keeps them under tags.

        It says so with 404, and with nothing else: a registry that has it answers every subject
        with 200 (distribution-spec, Listing Referrers). Any other failure is a failure.
        """
        strange = 0
        try:
            async for page in self._pages(f"/v2/{quote(repository)}/referrers/{subject}"):
                self._has_referrers = True
                for entry in _list(page, "manifests"):
                    found = entry.get("digest") if isinstance(entry, dict) else None
                    try:
                        yield Digest.parse(str(found))
                    except DigestInvalidError:
                        strange += 1
        except _StatusError as error:
            if error.status != _NOT_FOUND or self._has_referrers:
                raise
        if strange:
            raise SourceError(f"{strange} entries of the list name no digest")

    async def manifest(
        self, repository: str, reference: Reference, *, limit: int
    ) -> SourceManifest:
        """Get a manifest in whichever of the four media types it was pushed."""
        path = f"/v2/{quote(repository)}/manifests/{quote(reference, safe=':')}"

        async def read() -> tuple[bytes, str]:
            async with self._get(path, headers=_ACCEPT) as response:
                return await response.read(limit=limit), response.header("Content-Type")

        payload, media_type = await _whole(read)
        digest = Digest.of(payload)
        if isinstance(reference, Digest):
            digest = Digest.of(payload, reference.algorithm)
            if digest != reference:
                raise LostError(f"the bytes of manifest {reference} are others")
        return SourceManifest(digest, payload, media_type)

    async def blob_size(self, repository: str, digest: Digest) -> int:
        """Ask with HEAD."""
        async with self._get(_blob(repository, digest), method="HEAD") as response:
            return response.size

    async def blob(self, repository: str, digest: Digest) -> AsyncIterator[bytes]:
        """Stream the body, from wherever the registry redirects to; go on where it breaks off."""
        offset, failures = 0, 0
        while True:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            wanted = _PARTIAL if offset else _OK
            try:
                async with self._get(
                    _blob(repository, digest), headers=headers, wanted=wanted
                ) as response:
                    async for chunk in response.chunks():
                        offset, failures = offset + len(chunk), 0
                        yield chunk
                    return
            except UnavailableError:
                failures += 1
                if failures == _ATTEMPTS:
                    raise

    def blob_path(self, _repository: str, _digest: Digest) -> Path | None:
        """Return none: the blobs are elsewhere."""
        return None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _listed(self, path: str, key: str) -> AsyncIterator[str]:
        async for page in self._pages(path):
            for name in _list(page, key):
                # What is no name fails where it is used, and is listed.
                yield name if isinstance(name, str) else f"(no name: {json.dumps(name)[:_SHOWN]})"

    async def _pages(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Follow `Link: <...>; rel="next"` on this server, and not for ever."""
        following = f"{path}?n={_PAGE_ENTRIES}"
        for _ in range(_MOST_PAGES):
            page, target = await _whole(partial(self._page, following))
            yield page
            if not target:
                return
            parts = urlsplit(urljoin(following, target))
            following = f"{parts.path}?{parts.query}"
        raise SourceError(f"{path} has no last page")

    async def _page(self, path: str) -> tuple[dict[str, Any], str]:
        """Return one page and where the next one is."""
        async with self._get(path) as response:
            return await response.read_json(limit=_PAGE_BYTES), response.next_page

    @asynccontextmanager
    async def _get(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        wanted: int = _OK,
    ) -> AsyncIterator[Answer]:
        """Open an answer; a failure to get one is tried again, a broken body is not."""
        try:
            async with self._client.open(
                path, scope=_scope(path), method=method, headers=headers
            ) as answer:
                if answer.status != wanted:
                    message = f"{path.partition('?')[0]} answers {answer.status}"
                    kind = _NotThereError if answer.status == _NOT_FOUND else _StatusError
                    raise kind(message, answer.status)
                yield answer
        except TooMuchError as error:
            raise LostError(str(error)) from error
        except RemoteError as error:
            raise SourceError(str(error)) from error


async def _whole(read: Callable[[], Awaitable[T]]) -> T:
    """Return a short body; one that breaks off is asked for again, a few times."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return await read()
        except BrokenOffError:
            await asyncio.sleep(_PAUSE_SECONDS)
    return await read()


def _scope(path: str) -> str:
    """Return what requests have in common that one token answers: the repository, or the rest."""
    for part in ("/manifests/", "/blobs/", "/tags/", "/referrers/"):
        if part in path:
            return path.partition(part)[0]
    return path.partition("?")[0]


def _blob(repository: str, digest: Digest) -> str:
    return f"/v2/{quote(repository)}/blobs/{digest}"


def _list(page: Mapping[str, Any], key: str) -> list[Any]:
    """Return a page's entries; `null` is how some registries write an empty list.

    Raises:
        SourceError: there is no list, which is not the same as an empty one.

    """
    found = page.get(key, False)
    if found is None:
        return []
    if not isinstance(found, list):
        raise SourceError(f"the answer has no list of {key}")
    return found


if TYPE_CHECKING:
    _: type[Source] = RemoteRegistry
