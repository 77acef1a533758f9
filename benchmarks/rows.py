"""The rows of the table: what is measured, in which unit, against which budget."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.content import (
    APP,
    PUSHED,
    TAGGED,
    Content,
    Fetch,
    Sizes,
    check,
    push_dead_blobs,
    push_file,
)
from benchmarks.failure import BenchmarkError
from benchmarks.hammer import Hammer, Rate
from benchmarks.load import pull, push_image, run_wrk
from benchmarks.processes import pss, rss, tree
from benchmarks.server import Server
from benchmarks.wire import Connection

MEGABYTE = 1_000_000
PAGE = 100
LESS_IS_BETTER = frozenset({"s", "MB", "ms"})


@dataclass(frozen=True)
class Bench:
    """What the measuring functions share."""

    content: Content
    folder: Path

    @property
    def sizes(self) -> Sizes:
        """The sizes of this run."""
        return self.content.sizes


@dataclass(frozen=True)
class Measured:
    """One measurement of one contender, and what else was seen meanwhile."""

    value: float
    details: Mapping[str, float] = field(default_factory=dict)


Measure = Callable[[Bench, Server], Measured]


@dataclass(frozen=True)
class Row:
    """One row. `check` runs once per contender, unmeasured, before the first round."""

    key: str
    title: str
    unit: str
    measure: Measure
    check: Callable[[Bench, Server], None] = lambda _bench, _server: None
    needs: frozenset[str] = frozenset()
    budgets: Mapping[str, float] = field(default_factory=dict)
    """How many times better than each peer, at least."""
    limit: float | None = None
    """What our own figure may be at most."""
    tls: bool = False
    against_disk: bool = False
    """The disk is measured beside it; 90 % of its speed meets the budget too."""
    restarts: bool = False
    """It starts the contender anew, so that nothing can be metered across it."""
    ours_only: bool = False
    """Peers have nothing to measure here."""
    optional: str = ""
    """The option without which the row is left out."""


def _against(docker_registry: float, distribution: float) -> dict[str, float]:
    return {"docker-registry": docker_registry, "distribution": distribution}


def _measured(rate: Rate) -> Measured:
    details = {"requests": rate.requests, "p50 ms": rate.p50, "p99 ms": rate.p99}
    return Measured(rate.per_second, details)


def _wrk_row(
    key: str,
    title: str,
    fetches: Callable[[Content], list[Fetch]],
    budgets: Mapping[str, float],
    connections: int = 32,
    needs: frozenset[str] = frozenset(),
) -> Row:
    """Return a row that GETs some addresses in turn with wrk."""

    def run(bench: Bench, server: Server, seconds: float) -> Rate:
        headers = server.headers(APP, fresh=True)
        wanted = fetches(bench.content)
        return run_wrk(server.address, headers, wanted, connections, seconds, bench.folder)

    def verify(bench: Bench, server: Server) -> None:
        check(server, APP, fetches(bench.content))
        if bench.sizes.warm_seconds:
            run(bench, server, bench.sizes.warm_seconds)

    def measure(bench: Bench, server: Server) -> Measured:
        return _measured(run(bench, server, bench.sizes.seconds))

    return Row(key, title, "req/s", measure, verify, needs, budgets)


def _head_manifests(bench: Bench, server: Server) -> Measured:
    paths = [fetch.path for fetch in bench.content.manifest_fetches(by_tag=True)]
    hammer = Hammer("HEAD", server.address, server.headers(APP, fresh=True), paths)
    return _measured(hammer.run_for(32, bench.sizes.seconds))


def _check_manifests(bench: Bench, server: Server) -> None:
    check(server, APP, bench.content.manifest_fetches(by_tag=True))


def _big(bench: Bench) -> Fetch:
    digest = bench.content.big.loaded_digest
    return Fetch(f"/v2/{APP}/blobs/{digest}", digest, bench.sizes.big_bytes)


def _pull(bench: Bench, server: Server) -> Measured:
    fetch = _big(bench)
    seconds = [pull(server, APP, fetch) for _ in range(bench.sizes.big_pulls)]
    return Measured(fetch.size / median(seconds) / MEGABYTE, {"pulls": len(seconds)})


def _check_pull(bench: Bench, server: Server) -> None:
    pull(server, APP, _big(bench), verify=True)


def _push(bench: Bench, server: Server) -> Measured:
    bench.content.big.stamp()
    server.headers(PUSHED, fresh=True)
    os.sync()  # what the contender before left unwritten is not this one's to wait for
    seconds = push_file(server, PUSHED, bench.content.big)
    return Measured(bench.content.big.size / seconds / MEGABYTE)


def _push_images(bench: Bench, server: Server) -> Measured:
    sizes = bench.sizes
    os.sync()
    times = [push_image(server, sizes.image_layers) for _ in range(sizes.image_pushes)]
    return Measured(median(times), {"slowest s": max(times), "pushes": len(times)})


def _tag_pages(bench: Bench) -> list[tuple[str, list[str]]]:
    """Return addresses of pages all over the list, each with the tags that belong on it."""
    tags = bench.content.tags
    starts = range(0, len(tags) - PAGE, max(1, len(tags) // 16))
    return [
        (f"/v2/{TAGGED}/tags/list?n={PAGE}&last={tags[at]}", tags[at + 1 : at + 1 + PAGE])
        for at in starts
    ]


def _tags(bench: Bench, server: Server) -> Measured:
    fetches = [Fetch(path, "", PAGE * 10) for path, _ in _tag_pages(bench)]
    headers = server.headers(TAGGED, fresh=True)
    rate = run_wrk(server.address, headers, fetches, 8, bench.sizes.seconds, bench.folder)
    return _measured(rate)


def _check_tags(bench: Bench, server: Server) -> None:
    for path, wanted in _tag_pages(bench):
        answer = server.get(path, TAGGED)
        listed = json.loads(answer.body)["tags"]
        if listed != wanted and not set(wanted) < set(listed):
            raise BenchmarkError(f"GET {path} answered {len(listed)} tags, not those asked for")
        if listed != wanted:  # 2.8 knows no pages and answers all of them
            print(f"  {server.contender.title} ignores `n`: {len(listed)} tags", flush=True)
            return


def _start(bench: Bench, server: Server) -> Measured:
    del bench
    server.restart()
    return Measured(server.first_answer_seconds)


def _start_empty(bench: Bench, server: Server) -> Measured:
    folder = bench.folder / f"empty-{time.time_ns()}"
    fresh = Server(server.contender, folder, server.certificate)
    try:
        fresh.start()
        return Measured(fresh.first_answer_seconds)
    finally:
        fresh.stop()
        shutil.rmtree(folder)


def _idle(bench: Bench, server: Server) -> Measured:
    server.restart()
    time.sleep(bench.sizes.settle_seconds)
    pids = tree(server.pid)
    details = {"PSS MB": pss(pids) / MEGABYTE, "processes": len(pids)}
    return Measured(rss(pids) / MEGABYTE, details)


def _collection(bench: Bench, server: Server) -> Measured:
    """Return the slowest GET during collection as a multiple of p99 without it."""
    server.restart(environment=server.contender.collect_environment())
    try:
        dead = push_dead_blobs(server, APP, bench.sizes.dead_blobs)
        time.sleep(2.0)  # longer than the grace
        paths = [fetch.path for fetch in bench.content.manifest_fetches(by_tag=True)]
        hammer = Hammer("GET", server.address, server.headers(APP, fresh=True), paths)
        before = hammer.run_for(32, bench.sizes.seconds)
        begin = time.perf_counter()
        during = _while_collecting(bench, server, hammer)
        seconds = time.perf_counter() - begin
        with Connection(server.address) as link:
            for blob in (dead[0], dead[-1]):
                target = f"/v2/{APP}/blobs/{blob.digest}"
                link.request("HEAD", target, server.headers(APP)).expect(404, "a collected blob")
    finally:
        server.restart()
    details = {
        "p99 ms without": before.p99,
        "slowest ms without": before.slowest,
        "p99 ms during": during.p99,
        "slowest ms during": during.slowest,
        "blobs collected": len(dead),
        "collection s": seconds,
    }
    return Measured(during.slowest / before.p99, details)


def _while_collecting(bench: Bench, server: Server, hammer: Hammer) -> Rate:
    """Return what the hammer sees until a collection, started now, has ended."""
    command = server.contender.collect_command(server.site)
    if command is None:
        raise BenchmarkError("cannot collect while it serves")
    contender = server.contender
    environment = os.environ | dict(contender.environment(server.site))
    environment |= contender.collect_environment()
    with (bench.folder / "gc.log").open("w+b") as log:
        collecting = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            during = hammer.run(32, lambda: collecting.poll() is None)
        finally:
            collecting.kill()
            collecting.wait()
        log.seek(0)
        if collecting.returncode:
            raise BenchmarkError(f"{' '.join(command)} failed: {log.read()[-500:]!r}")
    return during


_BIG = frozenset({"big"})
ROWS: tuple[Row, ...] = (
    Row(
        "start-empty", "first answer on an empty directory", "s",
        _start_empty, limit=2.0, restarts=True,
    ),
    Row(
        "start", "first answer on what was loaded", "s",
        _start, limit=2.0, restarts=True,
    ),
    Row(
        "idle", "memory when idle, resident, all processes", "MB",
        _idle, limit=250.0, restarts=True,
    ),
    _wrk_row(
        "manifest-tag", "GET manifest by tag, 32 connections",
        lambda content: content.manifest_fetches(by_tag=True), _against(10, 3),
    ),
    Row(
        "manifest-head", "HEAD manifest, 32 connections", "req/s",
        _head_manifests, _check_manifests, budgets=_against(10, 3),
    ),
    _wrk_row(
        "manifest-digest", "GET manifest by digest, 32 connections",
        lambda content: content.manifest_fetches(by_tag=False), _against(10, 3),
    ),
    _wrk_row(
        "blob-1k", "GET 1 KiB blob, 32 connections",
        lambda content: content.blob_fetches(content.small), _against(10, 5),
    ),
    _wrk_row(
        "blob-1m", "GET 1 MiB blobs, 8 connections",
        lambda content: content.blob_fetches(content.mebibytes), _against(2.5, 2),
        connections=8, needs=frozenset({"mebibyte"}),
    ),
    Row(
        "tags", "tags list, 10,000 tags, page of 100", "req/s",
        _tags, _check_tags, frozenset({"tags"}), _against(50, 20),
    ),
    Row(
        "pull-http", "GET one large blob, HTTP", "MB/s",
        _pull, _check_pull, _BIG, _against(1.2, 1.0),
    ),
    Row(
        "pull-tls", "GET one large blob, TLS", "MB/s",
        _pull, _check_pull, _BIG, _against(1.2, 1.0), tls=True,
    ),
    Row(
        "push-image", "push of an image of 50 small layers, 8 at a time", "s",
        _push_images, budgets=_against(2, 1.5),
    ),
    Row(
        "push-blob", "PUT one large blob", "MB/s",
        _push, needs=_BIG, budgets=_against(2.5, 1.2), against_disk=True,
    ),
    Row(
        "collection", "slowest GET while collecting / p99 without", "x",
        _collection, limit=2.0, restarts=True, ours_only=True, optional="--with-collection",
    ),
)  # fmt: skip


def choose(keys: Sequence[str], options: frozenset[str]) -> list[Row]:
    """Return the rows asked for by key or by the beginning of one; without `keys` all."""
    possible = [row for row in ROWS if not row.optional or row.optional in options]
    exact = {row.key for row in possible}.intersection(keys)
    begins = tuple(key for key in keys if key not in exact)
    return [row for row in possible if not keys or row.key in exact or row.key.startswith(begins)]
