"""The jobs of this registry, what they do, and the process that runs them."""

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from dtr.accounts.records import remove_expired
from dtr.accounts.signing import rotate_key
from dtr.collect.check import Checker, Finding, Severity, summary_of
from dtr.collect.collector import Collected, Collector
from dtr.database import Database
from dtr.jobs import (
    Body,
    JobContext,
    JobFailedError,
    JobKind,
    Runner,
    RunnerSettings,
    Schedule,
    every,
    runner_name,
)
from dtr.jobs.records import CHANNEL
from dtr.server.app import collect_settings
from dtr.server.clock import open_clock
from dtr.server.drivers import Drivers, has_own_disk, open_drivers
from dtr.server.logs import configure_logging
from dtr.server.metrics import Metrics
from dtr.server.parent import leave_with_parent
from dtr.server.read_only import wait_until_writable
from dtr.server.settings import Settings

_LOG = structlog.get_logger()
# Requests go first; jobs still get a tenth of a processor that is busy.
_NICENESS: Final = 10
_CLEAN_SECONDS: Final = 600
_REPAIR: Final = "'dtr fsck --repair' forgets lost blobs, so that a push brings them back"
_LISTEN_SECONDS: Final = 60
_WEEK: Final = 7 * 86400

COLLECT: Final = JobKind("collect", "Take away what nothing refers to and whose grace is over.")
FSCK: Final = JobKind(
    "fsck",
    "Compare metadata and storage both ways.",
    frozenset({"repair", "verify"}),
    deadline_seconds=_WEEK,
)
SWEEP: Final = JobKind("sweep", "Delete the bytes that crashes left behind in storage.")
ROTATE_KEY: Final = JobKind("rotate-key", "Replace the key that signs tokens when it is old.")
CLEAN_ACCOUNTS: Final = JobKind("clean-accounts", "Forget expired tokens, keys and failed logins.")
KINDS: Final = {kind.name: kind for kind in (COLLECT, FSCK, SWEEP, ROTATE_KEY, CLEAN_ACCOUNTS)}


class BackgroundFailedError(Exception):
    """Something that runs for as long as its process has failed; the process is to end, too."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} failed")


def run_jobs(settings: Settings, directory: Path) -> None:
    """Run jobs until SIGTERM; the body of the job runner's process."""
    configure_logging(settings.log.format, settings.log.level)
    leave_with_parent()
    os.nice(_NICENESS)
    asyncio.run(_run(settings, directory))


async def _run(settings: Settings, directory: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics()
    drivers = open_drivers(settings, directory, metrics)
    clock = open_clock(settings.cluster.clock_file)
    drivers.database.clock = clock
    name = runner_name()
    replica = None
    if has_own_disk(settings):
        from dtr.server.replica import replica_jobs  # noqa: PLC0415 - see there

        replica = replica_jobs(settings, drivers, clock)
    runner = Runner(
        drivers.database,
        {**bodies(settings, drivers, metrics, clock), **(replica.bodies() if replica else {})},
        [*schedules(settings), *(replica.schedules() if replica else ())],
        runner_settings(settings),
        name=name,
        predecessor=succeed(directory / "run" / "runner", name),
        observe=metrics.job,
        clock=clock,
    )
    beside = [
        asyncio.create_task(clock.follow(), name="clock"),
        asyncio.create_task(_listen(drivers.database, runner), name="job listener"),
    ]
    if replica is not None:
        beside.append(asyncio.create_task(replica.report(directory), name="storage status"))
    try:
        await run_beside(runner.run(stop), beside, stop)
    finally:
        await drivers.store.close()
        drivers.database.close()


async def run_beside(
    work: Coroutine[object, object, object],
    beside: Collection["asyncio.Task[Any]"],
    stop: asyncio.Event,
) -> None:
    """Do work that ends after `stop` is set, unless something beside it fails.

    Raises:
        BackgroundFailedError: something did; the work was stopped for that, and is done.

    """
    main = asyncio.create_task(work)
    pending, failed = {main, *beside}, None
    try:
        while failed is None and not main.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            failed = next((each for each in done - {main} if each.exception()), None)
        if failed is not None:
            stop.set()
        await main
        if failed is not None:
            raise BackgroundFailedError(failed.get_name()) from failed.exception()
    finally:
        for task in (main, *beside):
            task.cancel()
        await asyncio.gather(main, *beside, return_exceptions=True)


async def _listen(database: Database, runner: Runner) -> None:
    """Wake the runner when somebody says that there is something to do."""
    async for _ in database.changes(CHANNEL, poll_seconds=_LISTEN_SECONDS):
        runner.wake()


def succeed(path: Path, name: str) -> str | None:
    """Write down that `name` is this machine's runner now; return the one before it, now dead.

    The lock on the file goes with the process that has it, however that ends, and nothing lets go
    of it earlier. So whoever is named in a file that can be locked is certainly dead, and its jobs
    need not wait for its heartbeat to be missed.
    """
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    before = os.pread(descriptor, 1024, 0).decode(errors="replace").strip()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{name}\n".encode(), 0)
    return before or None


def schedules(settings: Settings) -> list[Schedule]:
    """Return what the settings ask to be done again and again, once in the whole registry."""
    collect = settings.collect
    clean = every(_CLEAN_SECONDS)
    return [
        Schedule(
            COLLECT.name,
            COLLECT.name,
            collect.schedule or every(collect.interval_seconds),
            is_enabled=collect.enabled,
        ),
        Schedule(SWEEP.name, SWEEP.name, every(settings.storage.sweep_interval_seconds)),
        Schedule(ROTATE_KEY.name, ROTATE_KEY.name, clean),
        Schedule(CLEAN_ACCOUNTS.name, CLEAN_ACCOUNTS.name, clean),
    ]


def runner_settings(settings: Settings) -> RunnerSettings:
    """Return what the settings say about this machine's runner."""
    jobs = settings.jobs
    return RunnerSettings(
        slots=jobs.slots,
        poll_seconds=jobs.poll_seconds,
        heartbeat_limit_seconds=jobs.heartbeat_limit_seconds,
        keep_seconds=jobs.keep_seconds,
        keep_ended=jobs.keep_ended,
    )


def bodies(
    settings: Settings, drivers: Drivers, metrics: Metrics, clock: Callable[[], float]
) -> Mapping[JobKind, Body]:
    """Return what each kind of job does."""
    background = Background(settings, drivers, metrics, clock)
    return {
        COLLECT: background.collect,
        FSCK: background.fsck,
        SWEEP: background.sweep,
        ROTATE_KEY: background.rotate_key,
        CLEAN_ACCOUNTS: background.clean_accounts,
    }


class Background:
    """The jobs' bodies."""

    def __init__(
        self, settings: Settings, drivers: Drivers, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._drivers = drivers
        self._metrics = metrics
        self._clock = clock

    async def collect(self, context: JobContext) -> None:
        """Collect what is due."""
        await self._wait(context)
        started = time.perf_counter()
        collector = Collector(
            self._drivers.database,
            self._drivers.store,
            collect_settings(self._settings),
            clock=self._clock,
            pause=lambda: self._wait(context),
        )

        def progress(done: Collected) -> None:
            context.progress(f"collected {done}")

        done = await collector.run(progress)
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

    async def fsck(self, context: JobContext) -> None:
        """Compare metadata and storage; fail where damage is left."""
        is_repair = bool(context.parameters.get("repair"))
        if is_repair:
            await self._wait(context)
        checker = Checker(
            self._drivers.database,
            self._drivers.store,
            repair=is_repair,
            verify=bool(context.parameters.get("verify")),
            clock=self._clock,
        )
        async for _ in checked(checker, context):
            if is_repair:
                await self._wait(context)

    async def sweep(self, context: JobContext) -> None:
        """Delete what crashes left behind in storage."""
        await self._wait(context)
        checker = Checker(
            self._drivers.database, self._drivers.store, repair=True, clock=self._clock
        )
        count = 0
        async for finding in checker.garbage():
            count += 1
            context.log(sentence_of(finding))
            _LOG.info("swept", what=finding.what, subject=finding.subject)
            await self._wait(context)
        context.progress(f"deleted {count} files without metadata")

    async def _wait(self, context: JobContext) -> None:
        """Wait while nothing is to be deleted."""
        await wait_until_writable(self._drivers.database, context)

    async def rotate_key(self, context: JobContext) -> None:
        """Make a new signing key where the newest is old."""
        auth = self._settings.auth
        is_new = await self._drivers.database.write(
            rotate_key,
            self._clock(),
            rotation_seconds=auth.key_rotation_seconds,
            token_seconds=auth.token_seconds,
        )
        if is_new:
            context.progress("a new key signs tokens")

    async def clean_accounts(self, context: JobContext) -> None:
        """Forget expired tokens, keys and failed logins."""
        now = self._clock()
        before = now - self._settings.auth.failed_login_delay_max_seconds - _CLEAN_SECONDS
        count = await self._drivers.database.write(
            remove_expired, now, forget_failures_before=before
        )
        context.progress(f"deleted {count} expired rows")


async def checked(checker: Checker, context: JobContext) -> AsyncIterator[Finding]:
    """Check everything; yield and say what is found as it is found.

    Raises:
        JobFailedError: at the end, where something is damaged and was not repaired.

    """
    counts = dict.fromkeys(Severity, 0)
    damaged = 0
    context.progress("no problems found so far")
    async for finding in checker.findings():
        counts[finding.severity] += 1
        damaged += not is_harmless(finding)
        context.log(sentence_of(finding), "info" if is_harmless(finding) else "error")
        context.progress(summary_of(counts))
        yield finding
    context.progress(summary_of(counts))
    if damaged:
        raise JobFailedError(f"{damaged} damaged; {_REPAIR}")


def is_harmless(finding: Finding) -> bool:
    """Tell whether a finding needs nobody's attention."""
    return finding.severity is not Severity.DAMAGE or finding.repaired


def sentence_of(finding: Finding) -> str:
    """Return a finding as one line."""
    repaired = " (repaired)" if finding.repaired else ""
    return f"{finding.severity}: {finding.subject}: {finding.what}{repaired}"
