"""One run: start all contenders, load them, measure the rows in turn, end everything."""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders import Contender, is_ours, make_certificate
from benchmarks.content import Content, Sizes
from benchmarks.failure import BenchmarkError
from benchmarks.load import disk_write_seconds
from benchmarks.processes import Meter, Usage
from benchmarks.rows import MEGABYTE, Bench, Measured, Row
from benchmarks.server import Server

BIG_COPIES_BESIDE_ROUNDS = 3  # the file itself, what was loaded, and dd's


@dataclass
class Column:
    """What one contender did in one row."""

    measured: list[Measured] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)
    failure: str = ""


@dataclass
class Outcome:
    """One row, measured."""

    row: Row
    columns: dict[str, Column]
    disk: list[float] = field(default_factory=list)
    """MB/s of dd, where the row is measured against the disk."""


Step = Callable[[Row, Server, Column], None]


class Runner:
    """Measures rows on contenders in a work folder, which it empties at the end."""

    def __init__(self, sizes: Sizes, contenders: Sequence[Contender], folder: Path) -> None:
        self._folder = folder
        self._contenders = contenders
        self._bench = Bench(Content(sizes, folder), folder)

    def run(self, rows: Sequence[Row]) -> list[Outcome]:
        """Measure all rows. A failure spoils one cell, never the run."""
        self._require_space(rows)
        certificate = make_certificate(self._folder)
        needs = frozenset().union(*(row.needs for row in rows))
        with contextlib.ExitStack() as stack:
            servers = []
            for contender in self._contenders:
                beside = self._folder / f"beside-{contender.key}"
                beside.mkdir()
                contender.open(beside)
                stack.callback(contender.close)
                server = Server(contender, self._folder / contender.key, certificate)
                stack.callback(server.stop)
                servers.append(server)
            failures = {server.contender.key: self._load(server, needs) for server in servers}
            return [self._measure_row(row, servers, failures) for row in rows]

    def _require_space(self, rows: Sequence[Row]) -> None:
        sizes = self._bench.sizes
        pushes = sizes.rounds if any(row.against_disk for row in rows) else 0
        copies = len(self._contenders) * (1 + pushes) + BIG_COPIES_BESIDE_ROUNDS
        wanted = copies * sizes.big_bytes if any("big" in row.needs for row in rows) else 0
        free = shutil.disk_usage(self._folder).free
        if free < wanted:
            raise BenchmarkError(
                f"{self._folder} has {free >> 20} MiB free and the run needs {wanted >> 20};"
                " choose another with --work-dir"
            )

    def _load(self, server: Server, needs: frozenset[str]) -> str:
        print(f"loading {server.contender.title}", flush=True)
        try:
            server.start()
            self._bench.content.load(server, needs)
        except (BenchmarkError, OSError) as error:
            return self._failed(server, f"could not be loaded: {error}")
        return ""

    def _measure_row(
        self, row: Row, servers: Sequence[Server], failures: dict[str, str]
    ) -> Outcome:
        print(f"{row.key}: {row.title}", flush=True)
        servers = [each for each in servers if not row.ours_only or is_ours(each.contender.key)]
        keys = [server.contender.key for server in servers]
        columns = {key: Column(failure=failures[key]) for key in keys}
        outcome = Outcome(row, columns)
        for server in servers:
            self._attempt(row, server, columns[server.contender.key], self._prepare)
        for _ in range(self._bench.sizes.rounds):
            for server in servers:
                self._attempt(row, server, columns[server.contender.key], self._measure)
            if row.against_disk:
                big = self._bench.content.big
                seconds = disk_write_seconds(big.path, self._folder, big.size)
                outcome.disk.append(big.size / seconds / MEGABYTE)
                print(f"  dd {outcome.disk[-1]:.0f} MB/s", flush=True)
        return outcome

    def _attempt(self, row: Row, server: Server, column: Column, step: Step) -> None:
        """Do a step unless the contender failed in this row before."""
        if column.failure:
            return
        try:
            step(row, server, column)
        except (BenchmarkError, OSError, KeyError, ValueError) as error:
            column.failure = self._failed(server, f"{type(error).__name__}: {error}")

    def _prepare(self, row: Row, server: Server, column: Column) -> None:
        del column
        server.ensure(tls=row.tls)
        row.check(self._bench, server)

    def _measure(self, row: Row, server: Server, column: Column) -> None:
        if row.restarts:
            measured = row.measure(self._bench, server)
        else:
            with Meter(server.pid) as meter:
                measured = row.measure(self._bench, server)
            column.usages.append(meter.usage)
        column.measured.append(measured)
        print(f"  {server.contender.title}: {measured.value:.4g} {row.unit}", flush=True)

    @staticmethod
    def _failed(server: Server, reason: str) -> str:
        print(f"  FAILED {server.contender.title}: {reason}", flush=True)
        return reason
