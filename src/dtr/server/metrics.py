"""What Prometheus is told. Every process counts for itself; a scrape adds them up."""

import functools
import os
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from dtr import __version__

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_RESERVED_BYTES = 512 << 10  # every label of every route takes less
_process_id = functools.cache(os.getpid)  # asked for each number of each request
os.register_at_fork(after_in_child=_process_id.cache_clear)
_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 600)


_RequestKey = tuple[str, str, int]


@dataclass(slots=True)
class _Requests:
    """Requests of one route, method and status since they were last handed on."""

    count: int = 0
    seconds: float = 0.0
    by_bound: list[int] = field(default_factory=lambda: [0] * (len(_SECONDS) + 1))
    received: int = 0
    sent: int = 0


class Metrics:
    """The counters of one process.

    Requests are counted in plain numbers first, for each of the library's counters is written into
    a file that all processes share: together that took a tenth of a small request's time. `flush`
    hands them on.
    """

    def __init__(self) -> None:
        _reserve_room()
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "dtr_http_requests",
            "Requests answered.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "dtr_http_request_seconds",
            "Time from the request's head to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._received = Counter(
            "dtr_http_received_bytes",
            "Bytes of bodies received.",
            ("route",),
            registry=self.registry,
        )
        self._sent = Counter(
            "dtr_http_sent_bytes", "Bytes of bodies sent.", ("route",), registry=self.registry
        )
        self._operations = Histogram(
            "dtr_operation_seconds",
            "Time that the database and the storage took.",
            ("component", "operation"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._collected = Counter(
            "dtr_collected", "What collection took away.", ("kind",), registry=self.registry
        )
        self._collect_seconds = Counter(
            "dtr_collect_seconds", "Time that collection took.", registry=self.registry
        )
        self._jobs = Counter(
            "dtr_jobs", "Attempts of jobs that ended.", ("kind", "outcome"), registry=self.registry
        )
        self._job_seconds = Counter(
            "dtr_job_seconds", "Time that jobs took.", ("kind",), registry=self.registry
        )
        self._cache = Counter(
            "dtr_blob_cache",
            "Blobs looked for on this machine's disk.",
            ("result",),
            registry=self.registry,
        )
        self._tallies: dict[_RequestKey, _Requests] = {}
        self._timers: dict[tuple[str, str], Histogram] = {}

    def request(
        self, route: str, method: str, status: int, *, seconds: float, received: int, sent: int
    ) -> None:
        """Count one request; on the event loop's thread alone, as `flush`."""
        key = (route, method, status)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = _Requests()
        tally.count += 1
        tally.seconds += seconds
        tally.by_bound[bisect_left(_SECONDS, seconds)] += 1
        tally.received += received
        tally.sent += sent

    def flush(self) -> None:
        """Hand on what `request` counted: until then no scrape sees it, nor does it outlive us."""
        tallies, self._tallies = self._tallies, {}
        for (route, method, status), tally in tallies.items():
            self._requests.labels(route, method, str(status)).inc(tally.count)
            _observe_all(self._seconds.labels(route), tally)
            if tally.received:
                self._received.labels(route).inc(tally.received)
            if tally.sent:
                self._sent.labels(route).inc(tally.sent)

    def database(self, operation: str, seconds: float) -> None:
        """Observe a unit of work."""
        self._operation("database", operation, seconds)

    def storage(self, operation: str, seconds: float) -> None:
        """Observe what storage did."""
        self._operation("storage", operation, seconds)

    def collected(self, counts: dict[str, int], seconds: float) -> None:
        """Count what a run of collection took away."""
        for kind, count in counts.items():
            self._collected.labels(kind).inc(count)
        self._collect_seconds.inc(seconds)

    def job(self, kind: str, outcome: str, seconds: float) -> None:
        """Count an attempt of a job."""
        self._jobs.labels(kind, outcome).inc()
        self._job_seconds.labels(kind).inc(seconds)

    def cache(self, is_hit: bool) -> None:  # noqa: FBT001 - the shape of an observer
        """Count a look into the cache of blobs."""
        self._cache.labels("hit" if is_hit else "miss").inc()

    def exposition(
        self,
        *,
        uploads_open: int,
        uploads_empty: int = 0,
        jobs_open: Mapping[tuple[str, str], int] | None = None,
        is_read_only: bool = False,
    ) -> bytes:
        """Return all processes' numbers in Prometheus's text format.

        `jobs_open` are the registry's open jobs by kind and state.
        """
        self.flush()
        momentary = CollectorRegistry()
        directory = os.environ.get(DIRECTORY_VARIABLE)
        if directory:
            MultiProcessCollector(momentary, directory)  # type: ignore[no-untyped-call]
        text = generate_latest(momentary if directory else self.registry)
        momentary_text = _momentary(uploads_open, uploads_empty, is_read_only=is_read_only)
        return text + momentary_text + _jobs(jobs_open or {})

    def _operation(self, component: str, operation: str, seconds: float) -> None:
        key = (component, operation)
        timer = self._timers.get(key)
        if timer is None:
            timer = self._timers[key] = self._operations.labels(component, operation)
        timer.observe(seconds)


def _observe_all(histogram: Histogram, tally: _Requests) -> None:
    """Do at once what the library's `observe` does for one value."""
    histogram._sum.inc(tally.seconds)  # noqa: SLF001 - it has no public way
    for bucket, count in zip(histogram._buckets, tally.by_bound, strict=True):  # noqa: SLF001
        if count:
            bucket.inc(count)


def use_directory(directory: Path) -> None:
    """Have all processes that are started from now on count into `directory`.

    Called before the first metric is made. The library looks at the variable when it is imported,
    which was before: told again, for else every process would count for nobody.
    """
    os.environ[DIRECTORY_VARIABLE] = str(directory)
    values.ValueClass = values.MultiProcessValue(_process_id)  # type: ignore[no-untyped-call]


def _reserve_room() -> None:
    """Give this process's files all of their room now, or have it count for itself alone.

    The library maps files that have holes. A hole that is written to when the disk is full ends the
    process by SIGBUS, then the next one at its start, and with them the server.
    """
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if directory is None:
        return
    paths = [Path(directory) / f"{kind}_{os.getpid()}.db" for kind in ("counter", "histogram")]
    try:
        for path in paths:
            with path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, _RESERVED_BYTES)
    except OSError:
        values.ValueClass = values.MutexValue
        for path in paths:
            path.unlink(missing_ok=True)


def forget_process(pid: int) -> None:
    """Drop the momentary values of a process that is gone; its counts stay."""
    if DIRECTORY_VARIABLE in os.environ:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _momentary(uploads_open: int, uploads_empty: int, *, is_read_only: bool) -> bytes:
    """Return what is asked of the metadata at the scrape, the same from every process."""
    lines = [
        "# HELP dtr_uploads_open Upload sessions that are open.",
        "# TYPE dtr_uploads_open gauge",
        f"dtr_uploads_open {uploads_open}",
        "# HELP dtr_uploads_empty Open upload sessions to which no byte was sent yet.",
        "# TYPE dtr_uploads_empty gauge",
        f"dtr_uploads_empty {uploads_empty}",
        "# HELP dtr_read_only Whether an administrator has the registry serve pulls only.",
        "# TYPE dtr_read_only gauge",
        f"dtr_read_only {int(is_read_only)}",
        "# HELP dtr_build_info The version that runs.",
        "# TYPE dtr_build_info gauge",
        f'dtr_build_info{{version="{__version__}"}} 1',
        "",
    ]
    return "\n".join(lines).encode()


def _jobs(jobs_open: Mapping[tuple[str, str], int]) -> bytes:
    lines = ["# HELP dtr_jobs_open Jobs that wait or run.", "# TYPE dtr_jobs_open gauge"]
    for (kind, state), count in sorted(jobs_open.items()):
        lines.append(f'dtr_jobs_open{{kind="{kind}",state="{state}"}} {count}')
    return "\n".join([*lines, ""]).encode()
