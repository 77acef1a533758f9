"""A running registry, by its API (distribution-spec; catalog as docker-registry has it)."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urljoin, urlsplit

import httpx

from dtr.model.digest import Digest
from dtr.model.errors import DigestInvalidError, InvalidError, UnavailableError
from dtr.model.manifests import INDEX_TYPES, MANIFEST_TYPES
from dtr.model.names import Reference
from dtr.transfer.challenge import Authenticator, Credentials, read, read_json
from dtr.transfer.source import Source, SourceError, SourceManifest

_ACCEPT: Final = {"accept": ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))}
_PAGE_BYTES: Final = 16 << 20
_PAGE_ENTRIES: Final = 1000
_MOST_PAGES: Final = 1_000_000
_ATTEMPTS: Final = 5
_MOST_ANSWERS: Final = 3
_BUSY: Final = frozenset({429, 500, 502, 503, 504})
_TIMEOUT: Final = httpx.Timeout(60, connect=10)


class RemoteRegistry:
    """A source at `https://HOST[:PORT]`, asked as an ordinary client asks.

    Certificates are verified, unless `verify` is false. A request that fails is tried again.
    """

    def __init__(
        self, url: str, *, credentials: Credentials | None = None, verify: bool = True
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
            message = "name a registry as https://HOST[:PORT], without a user in it"
            raise InvalidError(message)
        self._url = f"{parts.scheme}://{parts.netloc}"
        self._client = httpx.AsyncClient(
            verify=verify,
            timeout=_TIMEOUT,
            follow_redirects=True,
            max_redirects=5,
            headers={"accept-encoding": "identity"},
        )
        self._has_referrers = True
        self._authenticator = Authenticator(self._client, credentials)

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
        async for name in self._listed(f"/v2/{quote(repository)}/tags/list", "tags"):
            yield name

    async def untagged(self, _repository: str) -> AsyncIterator[Digest]:
        """Find none: the API lists no manifests."""
        none: tuple[Digest, ...] = ()
        for digest in none:
            yield digest

    async def referrers(self, repository: str, subject: Digest) -> list[Digest]:
        """Ask the referrers API; a registry that does not have it keeps them under tags."""
        if not self._has_referrers:
            return []
        found: list[Digest] = []
        path = f"/v2/{quote(repository)}/referrers/{subject}"
        try:
            async for page in self._pages(path):
                entries = [e for e in _list(page, "manifests") if isinstance(e, dict)]
                found += [Digest.parse(str(entry.get("digest"))) for entry in entries]
        except (SourceError, DigestInvalidError):
            self._has_referrers = bool(found)
        return found

    async def manifest(
        self, repository: str, reference: Reference, *, limit: int
    ) -> SourceManifest:
        """Get a manifest in whichever of the four media types it was pushed."""
        path = f"/v2/{quote(repository)}/manifests/{quote(reference, safe=':')}"
        async with self._get(path, headers=_ACCEPT) as response:
            payload = await read(response, limit=limit)
            media_type = response.headers.get("content-type", "")
        digest = Digest.of(payload)
        if isinstance(reference, Digest):
            digest = Digest.of(payload, reference.algorithm)
            if digest != reference:
                raise SourceError(f"the bytes of manifest {reference} are others")
        return SourceManifest(digest, payload, media_type)

    async def blob_size(self, repository: str, digest: Digest) -> int:
        """Ask with HEAD."""
        async with self._get(_blob(repository, digest), method="HEAD") as response:
            length = response.headers.get("content-length", "")
            return int(length) if length.isascii() and length.isdigit() else 0

    async def blob(self, repository: str, digest: Digest) -> AsyncIterator[bytes]:
        """Stream the body, from wherever the registry redirects to; go on where it breaks off."""
        offset, failures = 0, 0
        while True:
            headers = {"range": f"bytes={offset}-"} if offset else {}
            wanted = httpx.codes.PARTIAL_CONTENT if offset else httpx.codes.OK
            try:
                async with self._get(
                    _blob(repository, digest), headers=headers, wanted=wanted
                ) as response:
                    async for chunk in response.aiter_bytes():
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
        await self._client.aclose()

    async def _listed(self, path: str, key: str) -> AsyncIterator[str]:
        async for page in self._pages(path):
            for name in _list(page, key):
                if isinstance(name, str):
                    yield name

    async def _pages(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Follow `Link: <...>; rel="next"` on this server, and not for ever."""
        following = f"{path}?n={_PAGE_ENTRIES}"
        for _ in range(_MOST_PAGES):
            async with self._get(following) as response:
                page = await read_json(response, limit=_PAGE_BYTES)
                target = response.links.get("next", {}).get("url")
            yield page
            if not target:
                return
            parts = urlsplit(urljoin(self._url + following, target))
            following = f"{parts.path}?{parts.query}"
        raise SourceError(f"{path} has no last page")

    @asynccontextmanager
    async def _get(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        wanted: int = httpx.codes.OK,
    ) -> AsyncIterator[httpx.Response]:
        """Open an answer; a failure to get one is tried again, a broken body is not."""
        scope = _scope(path)
        response = await self._patiently(scope, method, path, dict(headers or {}))
        try:
            if response.status_code != wanted:
                raise SourceError(f"{path.partition('?')[0]} answers {response.status_code}")
            yield response
        except httpx.TransportError as error:
            raise UnavailableError(f"the registry broke off: {_reason(error)}") from error
        finally:
            await response.aclose()

    async def _patiently(
        self, scope: str, method: str, path: str, headers: dict[str, str]
    ) -> httpx.Response:
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(2 ** (attempt - 2) * random.uniform(0.5, 1.0))  # noqa: S311
            try:
                response = await self._once(scope, method, path, headers)
                if response.status_code not in _BUSY or attempt == _ATTEMPTS - 1:
                    return response
                await response.aclose()
            except (httpx.TransportError, httpx.TooManyRedirects) as error:
                if attempt == _ATTEMPTS - 1:
                    message = f"the registry does not answer: {_reason(error)}"
                    raise UnavailableError(message) from error
        raise UnavailableError("the registry does not answer")

    async def _once(
        self, scope: str, method: str, path: str, headers: dict[str, str]
    ) -> httpx.Response:
        for _ in range(_MOST_ANSWERS):
            authorization = self._authenticator.header(scope)
            given = {**headers, "authorization": authorization} if authorization else headers
            request = self._client.build_request(method, self._url + path, headers=given)
            response = await self._client.send(request, stream=True)
            if response.status_code != httpx.codes.UNAUTHORIZED:
                return response
            await response.aclose()
            if not await self._authenticator.answer(scope, response):
                break
        return response


def _scope(path: str) -> str:
    """Return what requests have in common that one token answers: the repository, or the rest."""
    for part in ("/manifests/", "/blobs/", "/tags/", "/referrers/"):
        if part in path:
            return path.partition(part)[0]
    return path.partition("?")[0]


def _blob(repository: str, digest: Digest) -> str:
    return f"/v2/{quote(repository)}/blobs/{digest}"


def _list(page: Mapping[str, Any], key: str) -> list[Any]:
    found = page.get(key)
    return found if isinstance(found, list) else []


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


if TYPE_CHECKING:
    _: type[Source] = RemoteRegistry
