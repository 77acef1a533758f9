"""The jobs of an embedded registry: collection, sweeping, key rotation."""

import asyncio
import signal
import time
from pathlib import Path

import structlog

from dtr.accounts.records import remove_expired
from dtr.accounts.signing import rotate_key
from dtr.collect.check import Checker
from dtr.collect.collector import Collector
from dtr.jobs import Job, JobRunner
from dtr.server.app import Drivers, collect_settings, open_drivers
from dtr.server.logs import configure_logging
from dtr.server.metrics import Metrics
from dtr.server.parent import leave_with_parent
from dtr.server.settings import Settings

_LOG = structlog.get_logger()
_CLEAN_SECONDS = 600


def run_jobs(settings: Settings, directory: Path) -> None:
    """Run all jobs until SIGTERM; the body of the job runner's process."""
    configure_logging(settings.log.format, settings.log.level)
    leave_with_parent()
    asyncio.run(_run(settings, directory))


async def _run(settings: Settings, directory: Path) -> None:
    metrics = Metrics()
    drivers = open_drivers(settings, directory, metrics)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await JobRunner(jobs(settings, drivers, metrics), stop).run()
    finally:
        await drivers.store.close()
        drivers.database.close()


def jobs(settings: Settings, drivers: Drivers, metrics: Metrics) -> list[Job]:
    """Return what the settings ask to be done regularly."""
    background = Background(settings, drivers, metrics)
    found = [
        Job("clean accounts", _CLEAN_SECONDS, background.clean_accounts),
        Job("sweep storage", settings.storage.sweep_interval_seconds, background.sweep),
    ]
    if settings.collect.enabled:
        found.append(Job("collect", settings.collect.interval_seconds, background.collect))
    return found


class Background:
    """The jobs' bodies."""

    def __init__(self, settings: Settings, drivers: Drivers, metrics: Metrics) -> None:
        self._settings = settings
        self._drivers = drivers
        self._metrics = metrics

    async def collect(self) -> None:
        """Collect what is due."""
        started = time.perf_counter()
        collector = Collector(
            self._drivers.database, self._drivers.store, collect_settings(self._settings)
        )
        done = await collector.run()
        counts = {
            "manifests": done.manifests,
            "links": done.links,
            "blobs": done.blobs,
            "bytes": done.bytes,
            "uploads": done.uploads,
        }
        seconds = time.perf_counter() - started
        self._metrics.collected(counts, seconds)
        if any(counts.values()):
            _LOG.info("collected", seconds=round(seconds, 3), **counts)

    async def clean_accounts(self) -> None:
        """Rotate the signing key; forget expired tokens, keys and failed logins."""
        auth, now = self._settings.auth, time.time()
        await self._drivers.database.write(
            rotate_key,
            now,
            rotation_seconds=auth.key_rotation_seconds,
            token_seconds=auth.token_seconds,
        )
        before = now - auth.failed_login_delay_max_seconds - _CLEAN_SECONDS
        await self._drivers.database.write(remove_expired, now, forget_failures_before=before)

    async def sweep(self) -> None:
        """Delete what crashes left behind in storage."""
        checker = Checker(self._drivers.database, self._drivers.store, repair=True)
        async for finding in checker.garbage():
            _LOG.info("swept", what=finding.what, subject=finding.subject)
