"""What a replica with blobs on its own disk runs besides: the peer endpoint, jobs, a report.

Imported only where there is such a disk, with aiohttp and all of `dtr.storage.replicated`.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import orjson
import structlog

from dtr.asgi.connection_rules import ConnectionLimits
from dtr.asgi.connections import Connections
from dtr.collect.copies import Copied, Copier, count_placements
from dtr.collect.scrub import Scrubbed, Scrubber
from dtr.database import Database, Writer
from dtr.jobs import Body, JobContext, JobKind, Schedule, every, schedules
from dtr.model.errors import InvalidError, RegistryError
from dtr.model.members import MembersFile
from dtr.server.datadir import write_atomically
from dtr.server.drivers import Drivers, storage_options
from dtr.server.logs import configure_logging
from dtr.server.open_files import connection_limits
from dtr.server.parent import leave_with_parent
from dtr.server.settings import Settings
from dtr.storage import open_own_disk
from dtr.storage.replicated import PeerServer, ReplicatedBlobStore

_LOG = structlog.get_logger()
_COPY_SECONDS: Final = 600
_SCRUB_PAUSE_SECONDS: Final = 3600
_REPORT_SECONDS: Final = 3.0
_REPORT_REST: Final = 20
"""How long counting rests, in times of what it took: a large registry is not always counted."""
_LONGEST_REST_SECONDS: Final = 60.0
"""Whoever removes a replica waits for a count that is newer than that."""
_WEEK: Final = 7 * 86400
_COPY: Final = "copy-blobs-"
_SCRUB: Final = "scrub-"

STATUS_FILE: Final = "storage-status.json"
"""In the data directory: the fields of `cluster.model.StorageReport`, for the node's agent."""


def run_peer_endpoint(settings: Settings, directory: Path) -> None:
    """Give blobs to other replicas until SIGTERM; the body of the peer endpoint's process."""
    configure_logging(settings.log.format, settings.log.level)
    leave_with_parent()
    try:
        asyncio.run(_serve_peers(settings, directory))
    except (InvalidError, OSError) as error:
        _LOG.error("other replicas cannot be served", error=str(error))
        raise SystemExit(1) from None


async def _serve_peers(settings: Settings, directory: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    options, listen = storage_options(settings), settings.cluster.peer_listen
    if options.replication is None:
        raise InvalidError("cluster.members_file, certificate, key and ca must all be set")
    local = open_own_disk(directory, options)
    members = MembersFile(options.replication.members_file)
    connections = Connections(listen.port, peer_limits(settings))
    server = PeerServer(local, members, options.replication.credentials, connections.during)
    following = asyncio.create_task(connections.follow(), name="peer connections")
    try:
        await server.start(listen.host, listen.port)
        await server.serve_until(stop, following)
    finally:
        following.cancel()
        await server.stop()
        await local.close()


def peer_limits(settings: Settings) -> ConnectionLimits:
    """Return what connections of other replicas may do.

    One process serves all processes of another replica, which have one address: as many as all web
    workers together take of it. An answer may pause for as long as it may take, for a client that
    reads slowly may be behind the other replica, and all that is buffered there comes first.
    """
    limits, workers = connection_limits(settings), settings.server.workers or os.cpu_count() or 1
    return replace(
        limits,
        most_per_address=limits.most_per_address * workers,
        idle_seconds=limits.whole_seconds,
        least_bytes_per_second=0,
    )


class ReplicaJobs:
    """The jobs of this replica's own disk, and the report on it.

    Their kinds carry the replica's id, so that nobody else runs them.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        store: ReplicatedBlobStore,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._database = database
        self._store = store
        own = store.members.own_id
        self._copy = JobKind(f"{_COPY}{own}", f"Fetch what replica {own} should hold and does not.")
        self._scrub = JobKind(
            f"{_SCRUB}{own}",
            f"Verify what replica {own} holds, and repair it.",
            deadline_seconds=_WEEK,
        )

    def bodies(self) -> Mapping[JobKind, Body]:
        """Return what each kind does."""
        return {self._copy: self._copy_blobs, self._scrub: self._scrub_blobs}

    def schedules(self) -> list[Schedule]:
        """Return when: copying never stops for long, a scrub does what is due."""
        pause = min(_SCRUB_PAUSE_SECONDS, self._settings.storage.scrub_interval_seconds)
        return [
            Schedule(self._copy.name, self._copy.name, every(1)),
            Schedule(self._scrub.name, self._scrub.name, every(pause)),
        ]

    async def forget_former(self) -> None:
        """Forget the schedules of replicas that are no members any more."""
        members = [each.id for each in self._store.members.members]
        await self._database.write(_forget_former, members)

    async def report(self, directory: Path) -> None:
        """Write the status file again and again, until cancelled."""
        loop, copies = asyncio.get_running_loop(), self._settings.storage.copies
        while True:
            begun = loop.time()
            try:
                found = await count_placements(self._database, self._store, copies)
                write_atomically(directory / STATUS_FILE, orjson.dumps(found))
            except (RegistryError, OSError) as error:
                _LOG.warning("the storage's status is not written", error=str(error))
            rest = min((loop.time() - begun) * _REPORT_REST, _LONGEST_REST_SECONDS)
            await asyncio.sleep(max(_REPORT_SECONDS, rest))

    async def _copy_blobs(self, context: JobContext) -> None:
        def progress(done: Copied) -> None:
            context.progress(str(done))

        await self.forget_former()
        copies = self._settings.storage.copies
        copier = Copier(self._database, self._store, copies=copies, clock=self._clock)
        await copier.run(_COPY_SECONDS, progress)

    async def _scrub_blobs(self, context: JobContext) -> None:
        def progress(done: Scrubbed) -> None:
            context.progress(str(done))

        interval = self._settings.storage.scrub_interval_seconds
        scrubber = Scrubber(
            self._database, self._store, interval_seconds=interval, clock=self._clock
        )
        await scrubber.run(progress, lambda sentence: context.log(sentence, "error"))


def _forget_former(writer: Writer, members: Collection[str]) -> None:
    kept = {f"{kind}{replica}" for kind in (_COPY, _SCRUB) for replica in members}
    names = {schedule.name for schedule, _ in schedules.list_schedules(writer)}
    former = {each for each in names - kept if each.startswith((_COPY, _SCRUB))}
    if former and members:
        schedules.remove(writer, former)


def replica_jobs(
    settings: Settings, drivers: Drivers, clock: Callable[[], float]
) -> ReplicaJobs | None:
    """Return the jobs of this replica's disk; None where blobs are not on it."""
    if isinstance(drivers.store, ReplicatedBlobStore):
        return ReplicaJobs(settings, drivers.database, drivers.store, clock)
    return None
