"""Who can be read: a prober asks each replica for a manifest and a blob, all the time."""

import asyncio
import time
from dataclasses import dataclass, field
from itertools import pairwise

import httpx
from tests.outages.docker import HttpOptions
from tests.outages.images import MANIFEST_TYPE, Image

_PAUSE_SECONDS = 0.2
_PATIENCE_SECONDS = 10.0


@dataclass
class Reads:
    """What one replica answered: when it was well, and when and why not."""

    name: str
    well: list[float] = field(default_factory=list)
    ill: list[tuple[float, str]] = field(default_factory=list)

    def longest_gap(self, since: float, until: float) -> float:
        """Give the longest time in which it answered nothing well."""
        points = [since, *(at for at in self.well if since <= at <= until), until]
        return max(later - earlier for earlier, later in pairwise(points))

    def failures(self, since: float, until: float) -> list[str]:
        """Say what went wrong."""
        return [f"{self.name}: {why}" for at, why in self.ill if since <= at <= until]


class Reader:
    """Reads from one replica directly; each time it connects anew, as docker does."""

    def __init__(self, url: str, account: tuple[str, str], http: HttpOptions, reads: Reads) -> None:
        self._url = url
        self._account = account
        self._http = http
        self.reads = reads

    async def run(self, repository: str, image: Image) -> None:
        """Read until cancelled."""
        blob = next(iter(image.blobs))
        paths = [f"/v2/{repository}/manifests/{image.digest}", f"/v2/{repository}/blobs/{blob}"]
        async with self._http.client(self._url) as http:
            http.auth = httpx.BasicAuth(*self._account)
            http.timeout = httpx.Timeout(_PATIENCE_SECONDS)
            while True:
                for path in paths:
                    await self._read(http, path)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _read(self, http: httpx.AsyncClient, path: str) -> None:
        try:
            answer = await http.get(path, headers={"Accept": MANIFEST_TYPE})
        except httpx.TransportError as error:
            self.reads.ill.append((time.monotonic(), f"GET {path}: {error!r}"))
            return
        if answer.status_code == httpx.codes.OK:
            self.reads.well.append(time.monotonic())
        else:
            said = f"{answer.status_code} {answer.text[:200]}"
            self.reads.ill.append((time.monotonic(), f"GET {path}: {said}"))
