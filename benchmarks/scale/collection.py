"""What requests notice of a collection: their slowest, with it and without."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from benchmarks.failure import BenchmarkError
from benchmarks.hammer import Hammer, Rate
from benchmarks.scale.measure import running_on
from dtr.database import open_postgresql
from dtr.jobs import Job, NewJob, State
from dtr.jobs import records as jobs
from dtr.server.background import COLLECT
from dtr.storage import FilesystemBlobStore

_CONNECTIONS: Final = 16
_POLL_SECONDS: Final = 0.25
_QUIET: Final = {"DTR_COLLECT__ENABLED": "false"}  # but for the one that we ask for
_DEAD: Final = """
INSERT INTO blobs (digest, size, storage_key, state, created_at)
SELECT 'sha256:' || hex, 64, 'sha256/' || left(hex, 2) || '/' || hex || '.' || md5(hex)::uuid,
    'live', 0
FROM (
    SELECT encode(sha256(convert_to(%(stamp)s || number, 'UTF8')), 'hex') AS hex
    FROM generate_series(1, %(count)s) AS number
) AS made
RETURNING digest, storage_key
"""
_LINK: Final = """
INSERT INTO repository_blobs (repository_id, digest, review_at)
SELECT 1 + number %% (SELECT max(id) FROM repositories), digest, 1.0
FROM unnest(%(digests)s::text[]) WITH ORDINALITY AS dead (digest, number)
"""


@dataclass(frozen=True)
class Collection:
    """Latencies of GETs at a given pace before, during and after a collection."""

    blobs: int
    seconds: float
    per_second: float
    before: Rate
    during: Rate
    after: Rate

    @property
    def ratio(self) -> float:
        """The slowest request during collection, in p99s without."""
        return self.during.slowest / max(self.before.p99, self.after.p99)

    def __str__(self) -> str:
        """Return a line for each stretch."""
        lines = [
            f"{name}: p50 {rate.p50:.2f} p99 {rate.p99:.2f} p99.9 {rate.p999:.2f}"
            f" slowest {rate.slowest:.1f} ms of {rate.requests}"
            for name, rate in (
                ("before", self.before),
                ("during", self.during),
                ("after", self.after),
            )
        ]
        lines.append(
            f"{self.blobs} blobs in {self.seconds:.0f} s; slowest {self.ratio:.1f} x p99 without"
        )
        return "\n".join(lines)


def measure_collection(
    url: str, folder: Path, count: int, *, per_second: float, seconds: float = 60
) -> Collection:
    """Collect `count` small dead blobs of a filled registry while it answers GETs by tag."""
    with running_on(url, folder, _QUIET) as running:
        _add_dead(url, running.server.data, count)
        sample = running.sample
        hammer = Hammer("GET", running.server.address, sample.administrator.headers, sample.by_tag)
        hammer.run_for(_CONNECTIONS, 5, per_second=per_second)
        before = hammer.run_for(_CONNECTIONS, seconds, per_second=per_second)
        begin = time.perf_counter()
        during = _while_collecting(url, hammer, per_second)
        took = time.perf_counter() - begin
        after = hammer.run_for(_CONNECTIONS, seconds, per_second=per_second)
    with psycopg.connect(url) as connection:
        left = connection.execute("SELECT count(*) FROM blobs WHERE created_at = 0").fetchone()
    if left != (0,):
        raise BenchmarkError(f"{left} blobs were not collected")
    return Collection(count, took, per_second, before, during, after)


def _while_collecting(url: str, hammer: Hammer, per_second: float) -> Rate:
    """Have the server's own runner collect, and return what the hammer sees until it has."""
    database = open_postgresql(url)
    job_id = database.write_now(jobs.enqueue, NewJob(COLLECT), time.time())
    ended: list[Job] = []

    def watch() -> None:
        while not ended:
            time.sleep(_POLL_SECONDS)
            job = database.read_now(jobs.find_job, job_id)
            if job is not None and job.state.is_end:
                ended.append(job)

    watching = threading.Thread(target=watch, name="watch", daemon=True)
    watching.start()
    during = hammer.run(_CONNECTIONS, watching.is_alive, per_second=per_second)
    database.close()
    if ended[0].state is not State.SUCCEEDED:
        raise BenchmarkError(f"the collection {ended[0].state}: {ended[0].error}")
    return during


def _add_dead(url: str, data: Path, count: int) -> None:
    """Store blobs that no manifest refers to, and whose grace is long over."""
    store = FilesystemBlobStore(data)
    with psycopg.connect(url) as connection:
        values = {"stamp": f"{time.time_ns()}/", "count": count}
        rows = connection.execute(_DEAD, values).fetchall()
        connection.execute(_LINK, {"digests": [row[0] for row in rows]})
    for _, key in rows:
        path = store.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 64)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE blobs, repository_blobs")
