"""The composition root: the one module that turns settings into drivers and use cases."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from dtr.accounts.gate import Gate
from dtr.accounts.identity import Identity
from dtr.accounts.records import mark_tokens_used
from dtr.accounts.settings import AuthSettings
from dtr.accounts.signing import KeyRing
from dtr.accounts.tokens import TokenEndpoint
from dtr.asgi.connections import Connections
from dtr.asgi.forwarded import Proxies
from dtr.asgi.held import HeldBytes
from dtr.asgi.pace import BodyLimits
from dtr.asgi.peers import PeerTable
from dtr.collect.collector import CollectSettings
from dtr.database import Database, stale_reads
from dtr.model.documents import JsonLimits
from dtr.model.errors import RegistryError
from dtr.model.manifests import Limits
from dtr.registry.context import RegistryContext, RegistrySettings
from dtr.registry.counters import PullCounter
from dtr.registry.read_only import ReadOnly
from dtr.registry.records import STORAGE_IN_USE
from dtr.registry.routes import registry_routes
from dtr.server.application import Application
from dtr.server.balancers import Balancers
from dtr.server.clock import open_clock
from dtr.server.cluster_status import ClusterStatus
from dtr.server.drivers import Drivers
from dtr.server.health import Check, Health
from dtr.server.logs import AccessLog
from dtr.server.metrics import Metrics
from dtr.server.open_files import connection_limits
from dtr.server.reach import Reach
from dtr.server.read_only import ReadOnlyRoutes
from dtr.server.settings import Settings
from dtr.server.system import System

_LOG = structlog.get_logger()
_MAX_BLOB_BYTES = 2**63 - 1
_HELD_BYTES = 256 << 20
_HELD_BYTES_OF_ONE_ACCOUNT = 64 << 20
_USED_TOKENS_SECONDS = 30
_LAST_WRITE_SECONDS = 5
_SERVED_SECONDS = 0.1
_READ_ONLY = "no primary answers; pulls go on, pushes wait"
_READ_ONLY_MODE = "refused, in read-only mode"


def build_application(
    settings: Settings,
    drivers: Drivers,
    metrics: Metrics,
    *,
    ca_certificate: Path | None = None,
    clock: Callable[[], float] | None = None,
    on_served: Callable[[], None] | None = None,
    peers: PeerTable | None = None,
) -> Application:
    """Return the application on `drivers`; `on_served` is called when requests can come.

    `peers` says whose the connections of the front are, where there is one.
    """
    own_clock = open_clock(settings.cluster.clock_file)
    clock = clock or own_clock
    database, store = drivers.database, drivers.store
    database.clock = clock
    auth = auth_settings(settings)
    proxies = Proxies(settings.server.trusted_proxies, settings.server.forwarded_header)
    keys = KeyRing(database, service=auth.service, clock=clock)
    balancers = Balancers(settings.server.balancers, settings.cluster.balancers_file)

    def is_shared(client: str) -> bool:
        return proxies.is_trusted(client) or balancers.include(client)

    identity = Identity(database, keys, auth, is_shared=is_shared, clock=clock)
    gate = Gate(
        database,
        identity,
        service=auth.service,
        proxies=proxies,
        public_url=settings.server.public_url,
        path_prefix=settings.server.path_prefix,
        metrics_public=settings.server.metrics_public,
        clock=clock,
    )
    pulls, read_only = PullCounter(database), ReadOnly(database)
    context = RegistryContext(
        database, store, gate, registry_settings(settings), pulls, read_only, clock, drivers.cache
    )
    tokens = TokenEndpoint(database, identity, keys, gate, auth, proxies, clock=clock)
    health = Health(_checks(drivers, keys, read_only), drain_file=settings.cluster.drain_file)
    status = ClusterStatus(settings.cluster.status_file, health, settings.server.listen, clock)
    system = System(database, health, status, metrics, read_only, ca_certificate=ca_certificate)
    modes = ReadOnlyRoutes(database, gate, read_only, clock)
    used_tokens = UsedTokens(database, identity)
    limits = connection_limits(settings)
    connections = Connections(settings.server.listen.port, limits, peers, is_shared)

    async def tell() -> None:
        # The event loop stops here until the server listens, and a first timer is over by then.
        for _ in range(2):
            await asyncio.sleep(_SERVED_SECONDS)
        if on_served is not None:
            on_served()

    async def close() -> None:
        await health.close()
        for gathered in (used_tokens, pulls):
            with suppress(
                RegistryError, TimeoutError
            ):  # the database is away; that must not keep us
                await asyncio.wait_for(gathered.write(), _LAST_WRITE_SECONDS)
        identity.close()
        if drivers.cache is not None:
            await drivers.cache.close()
        await store.close()
        database.close()

    return Application(
        [*registry_routes(context), *tokens.routes(), *system.routes(), *modes.routes()],
        gate,
        metrics,
        proxies,
        access_log=_access_log(settings),
        body_limits=body_limits(settings),
        held=held_bytes(settings),
        connections=connections,
        peers=peers,
        reach=reach(settings, proxies),
        url_bytes=settings.limits.url_bytes,
        header_bytes=settings.limits.header_bytes,
        background=[
            own_clock.follow,
            used_tokens.run,
            pulls.run,
            read_only.follow,
            keys.follow,
            health.follow,
            connections.follow,
            balancers.follow,
            tell,
        ],
        closers=[close],
    )


def _checks(drivers: Drivers, keys: KeyRing, read_only: ReadOnly) -> dict[str, Check]:
    """Return how each component is asked whether it works."""

    async def storage() -> str:
        await drivers.store.check()
        return ""

    async def metadata() -> str:
        stale_reads.set(False)
        await drivers.database.lookup(STORAGE_IN_USE, {})
        return _READ_ONLY if stale_reads.get() else ""

    async def authorization() -> str:
        await keys.check()
        return ""

    async def pushes() -> str:
        return _READ_ONLY_MODE if read_only.is_on else ""

    return {
        "storage": storage,
        "metadata": metadata,
        "authorization": authorization,
        "pushes": pushes,
    }


class UsedTokens:
    """Writes down when access tokens were used and who logged in from where.

    Gathered, so that no pull writes a row.
    """

    def __init__(self, database: Database, identity: Identity) -> None:
        self._database = database
        self._identity = identity

    async def run(self) -> None:
        """Write again and again until cancelled."""
        while True:
            await asyncio.sleep(_USED_TOKENS_SECONDS)
            try:
                await self.write()
            except RegistryError as error:
                _LOG.warning("last use of tokens not recorded", error=str(error))

    async def write(self) -> None:
        """Write what was gathered."""
        used = self._identity.take_used_tokens()
        if used:
            await self._database.write(mark_tokens_used, used)
        await self._identity.failures.write()


def registry_settings(settings: Settings) -> RegistrySettings:
    """Return what the settings say about the distribution API."""
    limits = settings.limits
    return RegistrySettings(
        manifest_bytes=limits.manifest_bytes,
        blob_bytes=limits.blob_bytes or _MAX_BLOB_BYTES,
        page_entries=limits.page_entries,
        upload_ttl_seconds=settings.registry.upload_ttl_seconds,
        empty_upload_ttl_seconds=settings.registry.empty_upload_ttl_seconds,
        upload_sessions_per_account=limits.upload_sessions_per_account,
        grace_seconds=settings.collect.grace_seconds,
        untagged_grace_seconds=settings.collect.untagged_grace_seconds,
        accept_missing_references=settings.registry.missing_references == "accept",
        create_on_push=settings.registry.create_on_push,
        redirect=settings.storage.redirect,
        manifest=Limits(
            limits.manifest_references, JsonLimits(limits.json_nesting, limits.json_tokens)
        ),
    )


def reach(settings: Settings, proxies: Proxies) -> Reach:
    """Return what the settings say about addresses and other sites."""
    server = settings.server
    return Reach(
        proxies,
        public_url=server.public_url,
        prefix=server.path_prefix,
        is_absolute=server.absolute_locations,
        origins=frozenset(server.cors_origins),
    )


def body_limits(settings: Settings) -> BodyLimits:
    """Return what the settings say about slow bodies."""
    server = settings.server
    return BodyLimits(
        idle_seconds=server.body_idle_seconds,
        small_seconds=server.small_body_seconds,
        whole_seconds=server.transfer_seconds,
        least_bytes_per_second=server.least_bytes_per_second,
    )


def held_bytes(settings: Settings) -> HeldBytes:
    """Return how much of manifests that arrive may be held; some of the largest in any case."""
    largest = settings.limits.manifest_bytes
    return HeldBytes(max(_HELD_BYTES, 8 * largest), max(_HELD_BYTES_OF_ONE_ACCOUNT, 2 * largest))


def auth_settings(settings: Settings) -> AuthSettings:
    """Return what the settings say about authentication."""
    auth = settings.auth
    return AuthSettings(
        service=auth.service,
        token_seconds=auth.token_seconds,
        refresh_token_seconds=auth.refresh_token_seconds,
        refresh_tokens_per_user=auth.refresh_tokens_per_user,
        refresh_tokens=auth.refresh_tokens,
        credential_cache_seconds=auth.credential_cache_seconds,
        header_bytes=settings.limits.header_bytes,
        failed_logins_before_delay=auth.failed_logins_before_delay,
        failed_login_delay_seconds=auth.failed_login_delay_seconds,
        failed_login_delay_max_seconds=auth.failed_login_delay_max_seconds,
    )


def collect_settings(settings: Settings) -> CollectSettings:
    """Return what the settings say about collection."""
    collect = settings.collect
    return CollectSettings(
        untagged=collect.untagged == "collect",
        grace_seconds=collect.grace_seconds,
        untagged_grace_seconds=collect.untagged_grace_seconds,
        batch=collect.batch,
        forget_empty=settings.registry.create_on_push,
    )


def _access_log(settings: Settings) -> AccessLog | None:
    if not settings.log.access:
        return None
    return AccessLog(settings.log.format, sys.stdout.buffer)
