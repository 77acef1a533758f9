"""What every use case of the registry is given."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dtr.accounts.gate import Gate
from dtr.database import Database
from dtr.model.manifests import Limits
from dtr.registry.counters import PullCounter
from dtr.registry.read_only import ReadOnly
from dtr.storage import BlobCache, BlobStore


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Limits and behaviour of the distribution API."""

    manifest_bytes: int = 4 << 20
    blob_bytes: int = 2**63 - 1
    page_entries: int = 1000
    upload_ttl_seconds: float = 86400
    empty_upload_ttl_seconds: float = 900
    upload_sessions_per_account: int = 1000
    grace_seconds: float = 86400
    untagged_grace_seconds: float = 7 * 86400
    accept_missing_references: bool = True
    create_on_push: bool = True
    redirect: bool = False
    manifest: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class RegistryContext:
    """The drivers and the clock, put together by `server/app.py`."""

    database: Database
    store: BlobStore
    gate: Gate
    settings: RegistrySettings
    pulls: PullCounter
    read_only: ReadOnly
    clock: Callable[[], float] = time.time
    cache: BlobCache | None = None
