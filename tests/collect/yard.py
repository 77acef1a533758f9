"""A registry with its collector and its checker, on files, with time by hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select
from tests.http.client import Client, Repository
from tests.http.targets import InProcess

from dtr.collect.check import Checker, Finding, Severity
from dtr.collect.collector import Collected, Collector, CollectSettings
from dtr.database.schema import blobs
from dtr.model.access import Level
from dtr.storage import FilesystemBlobStore
from dtr.testing.registry import ADMIN, BOB, ManualClock, RegistryState, open_state

GRACE = 1000
UNTAGGED_GRACE = 5000
SETTINGS: dict[str, dict[str, Any]] = {
    "collect": {"grace_seconds": GRACE, "untagged_grace_seconds": UNTAGGED_GRACE},
    "registry": {"upload_ttl_seconds": 600},
}


@dataclass(frozen=True)
class Yard:
    """Everything that a test of collection asks; `directory` has the files.

    `client` is the administrator, `reader` somebody who may not push and so keeps nothing.
    """

    directory: Path
    client: Client
    reader: Client
    clock: ManualClock
    state: RegistryState
    store: FilesystemBlobStore

    def repository(self, name: str = "admin/app") -> Repository:
        """Return a repository as the administrator sees it."""
        return self.client.repository(name)

    def collector(self, *, untagged: bool = False, batch: int = 200) -> Collector:
        """Return a collector as the job runner has it."""
        settings = CollectSettings(
            untagged=untagged,
            grace_seconds=GRACE,
            untagged_grace_seconds=UNTAGGED_GRACE,
            batch=batch,
        )
        return Collector(self.state.database, self.store, settings, clock=self.clock)

    async def collect(self, *, untagged: bool = False, batch: int = 200) -> Collected:
        """Collect what is due now."""
        return await self.collector(untagged=untagged, batch=batch).run()

    async def check(self, *, repair: bool = False, verify: bool = True) -> list[Finding]:
        """Compare metadata and storage."""
        checker = Checker(
            self.state.database, self.store, repair=repair, verify=verify, clock=self.clock
        )
        return [finding async for finding in checker.findings()]

    async def has_blob(self, digest: str, repository: str = "admin/app") -> bool:
        """Tell, without being heard by collection, whether a blob is pulled whole."""
        answer = await self.reader.get(f"/v2/{repository}/blobs/{digest}")
        assert answer.status_code in {200, 404}, answer.text
        return answer.status_code == 200

    async def has_manifest(self, reference: str, repository: str = "admin/app") -> bool:
        """Tell the same of a manifest."""
        answer = await self.reader.get(f"/v2/{repository}/manifests/{reference}")
        assert answer.status_code in {200, 404}, answer.text
        return answer.status_code == 200

    def files(self) -> dict[str, Path]:
        """Return the committed files by their digests' first part."""
        found = (self.directory / "blobs").rglob("*.*")
        return {path.name.partition(".")[0]: path for path in found}

    def rows(self) -> int:
        """Return how many blobs the metadata knows."""
        count = select(func.count()).select_from(blobs)
        return self.state.database.read_now(lambda reader: int(reader.scalar(count)))


@asynccontextmanager
async def open_yard(
    directory: Path, *, clock: ManualClock | None = None, missing_references: str = "accept"
) -> AsyncIterator[Yard]:
    """Open two applications and a job runner's drivers on one directory."""
    registry = {**SETTINGS["registry"], "missing_references": missing_references}
    target = InProcess.open_files(directory, {**SETTINGS, "registry": registry})
    if clock is not None:
        target.clock.now = clock.now
    store = FilesystemBlobStore(directory)
    state = open_state(directory, store=store, clock=target.clock)
    async with httpx.AsyncClient(transport=target.transport(), base_url=target.url) as http:
        yield Yard(
            directory,
            _login(http, state, ADMIN[0], Level.ADMIN),
            _login(http, state, BOB[0], Level.READ_ONLY),
            target.clock,
            state,
            store,
        )
    await store.close()
    state.database.close()
    await target.close()


def _login(http: httpx.AsyncClient, state: RegistryState, name: str, level: Level) -> Client:
    """Return a client with an access token, which costs less to verify than a password."""
    return Client(http).login(name, state.administration.create_token(name, level)[1])


def damage(findings: list[Finding]) -> list[str]:
    """Return what of the findings is damage."""
    return [finding.what for finding in findings if finding.severity is Severity.DAMAGE]
