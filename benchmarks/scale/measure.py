"""What a request costs in a registry of some size: time, and the processors' time."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg

from benchmarks.backends import DtrAt
from benchmarks.contenders import make_certificate
from benchmarks.content import MANIFEST_TYPE, Object
from benchmarks.hammer import Hammer, Rate
from benchmarks.processes import cpu_seconds, tree
from benchmarks.scale.sample import Sample, User, take_sample
from benchmarks.server import Server
from benchmarks.wire import Connection, with_digest
from dtr.server.datadir import DataDirectory
from dtr.storage import FilesystemBlobStore

CONNECTIONS: Final = 4
_PUSHES_A_SECOND: Final = 40


@dataclass(frozen=True)
class Cost:
    """What one request cost: milliseconds of waiting, microseconds of processors."""

    p50: float
    p99: float
    server_cpu: float
    postgresql_cpu: float

    @property
    def cpu(self) -> float:
        """Processor time of all that we run, in microseconds."""
        return self.server_cpu + self.postgresql_cpu


@dataclass
class Running:
    """A server on a filled registry."""

    server: Server
    sample: Sample
    postgresql_pid: int
    pushed: int = 0

    def stamp(self) -> str:
        """Return a word that no earlier push had."""
        self.pushed += 1
        return f"{time.time_ns()}-{self.pushed}"


Measure = Callable[[Running, float], Cost]


@dataclass(frozen=True)
class Work:
    """A kind of request; `limit_ms` is what its median may take in a registry of any size."""

    key: str
    title: str
    measure: Measure
    limit_ms: float | None = None


def _fetching(
    method: str,
    paths: Callable[[Sample], Sequence[str]],
    user: Callable[[Sample], User] = lambda sample: sample.administrator,
    connections: int = CONNECTIONS,
) -> Measure:
    def measure(running: Running, seconds: float) -> Cost:
        sample = running.sample
        address = running.server.address
        hammer = Hammer(method, address, user(sample).headers, paths(sample))
        hammer.run_for(connections, seconds / 4)
        with _metered(running) as meter:
            rate = hammer.run_for(connections, seconds)
        return meter.cost(rate)

    return measure


def _put_manifests(running: Running, seconds: float) -> Cost:
    sample = running.sample
    chosen = sample.manifests

    def put(link: Connection, number: int) -> None:
        name, payload = chosen[number % len(chosen)]
        stamp = running.stamp()
        document = {**json.loads(payload), "annotations": {"pushed": stamp}}
        headers = {**sample.administrator.headers, "Content-Type": MANIFEST_TYPE}
        body = json.dumps(document).encode()
        link.request("PUT", f"/v2/{name}/manifests/{stamp}", headers, body).expect(201, "put")

    return _pushing(running, seconds, put)


def _push_blobs(running: Running, seconds: float) -> Cost:
    chosen = running.sample.manifests

    def push(link: Connection, number: int) -> None:
        blob = Object.of(running.stamp().encode().ljust(1024))
        target = f"/v2/{chosen[number % len(chosen)][0]}/blobs/uploads/"
        headers = {
            **running.sample.administrator.headers,
            "Content-Type": "application/octet-stream",
        }
        begun = link.request("POST", target, headers).expect(202, "begin an upload")
        closed = with_digest(begun.location, blob.digest)
        link.request("PUT", closed, headers, blob.body).expect(201, "close an upload")

    return _pushing(running, seconds, push)


def _pushing(running: Running, seconds: float, push: Callable[[Connection, int], None]) -> Cost:
    """Push again and again over one connection."""
    latencies = []
    with Connection(running.server.address) as link:
        for number in range(10):
            push(link, number)
        with _metered(running) as meter:
            begin = time.perf_counter()
            for number in range(round(seconds * _PUSHES_A_SECOND)):
                started = time.perf_counter()
                push(link, 10 + number)
                latencies.append((time.perf_counter() - started) * 1e3)
            whole = time.perf_counter() - begin
    latencies.sort()
    count = len(latencies)
    return meter.cost(
        Rate(
            count / whole,
            count,
            latencies[count // 2],
            latencies[count * 99 // 100],
            latencies[-1],
        )
    )


WORKS: Final[tuple[Work, ...]] = (
    Work("tag", "GET manifest by tag", _fetching("GET", lambda sample: sample.by_tag)),
    Work("digest", "GET manifest by digest", _fetching("GET", lambda sample: sample.by_digest)),
    Work("blob", "HEAD blob", _fetching("HEAD", lambda sample: sample.blobs)),
    Work(
        "tags",
        "tags page of the largest repository",
        _fetching("GET", lambda sample: [sample.largest_tags], connections=1),
        limit_ms=10,
    ),
    Work(
        "catalog",
        "catalog page",
        _fetching("GET", lambda sample: [sample.catalog], connections=1),
        limit_ms=20,
    ),
    Work(
        "catalog-guest",
        "catalog page of who may see little",
        _fetching(
            "GET", lambda sample: [sample.catalog], lambda sample: sample.guest, connections=1
        ),
        limit_ms=20,
    ),
    Work(
        "catalog-member",
        "catalog page, grants on all namespaces",
        _fetching(
            "GET", lambda sample: [sample.catalog], lambda sample: sample.member, connections=1
        ),
        limit_ms=20,
    ),
    Work("put-manifest", "PUT manifest", _put_manifests),
    Work("push-blob", "push of a 1 KiB blob", _push_blobs),
)


@contextmanager
def running_on(
    url: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Start a server on the registry at `url`, its files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(DtrAt(url), folder / "server", make_certificate(folder))
    _pretend_storage(url, folder / "server" / "data")
    try:
        server.start(environment=environment)
        yield Running(server, take_sample(url), _postmaster(url))
    finally:
        server.stop()


def measure(
    url: str, folder: Path, seconds: float, works: Sequence[Work] = WORKS
) -> Mapping[str, Cost]:
    """Return what each work costs in the registry at `url`, which is a little larger afterwards."""
    costs = {}
    with running_on(url, folder) as running:
        for work in works:
            costs[work.key] = cost = work.measure(running, seconds)
            print(
                f"  {work.title}: p50 {cost.p50:.2f} ms, p99 {cost.p99:.2f} ms,"
                f" CPU {cost.server_cpu:.0f} + {cost.postgresql_cpu:.0f} µs",
                flush=True,
            )
    return costs


@dataclass
class _Meter:
    running: Running
    began: tuple[float, float] = field(default=(0.0, 0.0))
    spent: tuple[float, float] = field(default=(0.0, 0.0))

    def now(self) -> tuple[float, float]:
        pids = (self.running.server.pid, self.running.postgresql_pid)
        server, postgresql = (cpu_seconds(tree(pid)) for pid in pids)
        return server, postgresql

    def cost(self, rate: Rate) -> Cost:
        server, postgresql = (spent / rate.requests * 1e6 for spent in self.spent)
        return Cost(rate.p50, rate.p99, server, postgresql)


@contextmanager
def _metered(running: Running) -> Iterator[_Meter]:
    meter = _Meter(running)
    meter.began = meter.now()
    yield meter
    ended = meter.now()
    meter.spent = (ended[0] - meter.began[0], ended[1] - meter.began[1])


def _pretend_storage(url: str, data: Path) -> None:
    """Place what a server knows its registry's storage by; other bytes there are none."""
    DataDirectory.open(data).close()
    store = FilesystemBlobStore(data)
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT storage_key, size FROM blobs WHERE id = (SELECT max(id) FROM blobs)"
            " OR digest = (SELECT value FROM settings WHERE key = 'storage.mark')"
        ).fetchall()
    for key, size in rows:
        path = store.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)


def _postmaster(url: str) -> int:
    """Return the first process of the PostgreSQL at `url`, which is on this machine."""
    with psycopg.connect(url) as connection:
        backend = connection.info.backend_pid
        stat = Path(f"/proc/{backend}/stat").read_text(encoding="utf-8")
    return int(stat.rpartition(")")[2].split()[1])
