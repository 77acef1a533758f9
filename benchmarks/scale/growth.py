"""Measure registries of growing size on one PostgreSQL, and say whether the budgets hold."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import machine
from benchmarks.backends import POSTGRESQL_SETTINGS, open_server
from benchmarks.scale.collection import Collection, measure_collection
from benchmarks.scale.fill import fill
from benchmarks.scale.measure import WORKS, Cost, Work, measure
from benchmarks.scale.sizes import Scale

MOST_TIMES: Final = 1.5
"""What a request may cost in the largest registry, in times of the smallest (design 12)."""
MOST_SLOWEST: Final = 2.0
"""What the slowest request during collection may take, in p99s without."""
DIVISORS: Final = (1000, 100, 10, 1)
# A page of the catalog must be full in the smallest registry, too, or it would cost less.
_LEAST_REPOSITORIES: Final = 200


@dataclass
class Growth:
    """Costs by the number of manifests, the smallest registry first."""

    machine: Mapping[str, str]
    date: str = field(default_factory=lambda: dt.datetime.now(tz=dt.UTC).date().isoformat())
    fill_seconds: dict[int, float] = field(default_factory=dict)
    costs: dict[int, Mapping[str, Cost]] = field(default_factory=dict)
    collection: Collection | None = None

    def times(self, work: Work) -> float:
        """Return the processor time of a request in the largest registry, in times of the least."""
        least, most = (
            self.costs[size][work.key].cpu for size in (min(self.costs), max(self.costs))
        )
        return most / least

    def verdict(self, work: Work) -> str:
        """Say whether the budgets of a work hold."""
        slowest = max(costs[work.key].p50 for costs in self.costs.values())
        holds = self.times(work) <= MOST_TIMES
        words = [f"{self.times(work):.2f} x {'met' if holds else '**MISSED**'}"]
        if work.limit_ms is not None:
            kept = "met" if slowest <= work.limit_ms else "**MISSED**"
            words.append(f"{slowest:.2f} ms of {work.limit_ms:g} {kept}")
        return ", ".join(words)

    def markdown(self) -> str:
        """Return the report."""
        sizes = sorted(self.costs)
        lines = [f"# Cost against size, {self.date}", ""]
        lines += ["| machine | |", "| --- | --- |"]
        lines += [f"| {name} | {value} |" for name, value in self.machine.items()]
        lines += ["", _METHOD, ""]
        lines += [_row(["request", *(f"{size:,} manifests" for size in sizes), "budgets"])]
        lines += [_row(["---"] * (len(sizes) + 2))]
        for work in WORKS:
            cells = [_cell(self.costs[size][work.key]) for size in sizes]
            lines.append(_row([work.title, *cells, self.verdict(work)]))
        lines += ["", "Seconds to fill: " + ", ".join(
            f"{size:,} manifests {seconds:.0f}" for size, seconds in self.fill_seconds.items()
        ) + "."]  # fmt: skip
        if self.collection is not None:
            pace = f"{self.collection.per_second:g} GETs a second"
            kept = "met" if self.collection.ratio <= MOST_SLOWEST else "**MISSED**"
            lines += ["", f"## Collection under {pace}", "", "```", str(self.collection), "```"]
            lines += ["", f"Budget: slowest at most {MOST_SLOWEST:g} x p99 without: {kept}."]
        return "\n".join([*lines, ""])

    def as_json(self) -> str:
        """Return every figure."""
        found: dict[str, Any] = asdict(self)
        return json.dumps(found, indent=1)


_METHOD: Final = (
    "Each cell: median milliseconds; processor time of DTR + of PostgreSQL in microseconds a"
    " request. Addresses are chosen at random from the whole registry; reads over 4 connections,"
    " pages and pushes over one. *Budgets*: processor time in the largest registry in times of the"
    f" smallest, at most {MOST_TIMES:g}; the median of pages."
)


def run(
    folder: Path, divisors: Sequence[int], *, seconds: float, dead_blobs: int, per_second: float
) -> Growth:
    """Fill and measure a registry for each divisor; collect in the largest."""
    described = machine.describe(folder)
    described["PostgreSQL"] = ", ".join(f"{k}={v}" for k, v in POSTGRESQL_SETTINGS.items())
    growth = Growth(described)
    with open_server() as server:
        for divisor in sorted(divisors, reverse=True):
            whole = Scale().divided(divisor)
            scale = replace(whole, repositories=max(whole.repositories, _LEAST_REPOSITORIES))
            url = server.create_database()
            print(f"{scale.manifests:,} manifests", flush=True)
            begun = dt.datetime.now(tz=dt.UTC)
            fill(url, scale)
            took = dt.datetime.now(tz=dt.UTC) - begun
            growth.fill_seconds[scale.manifests] = took.total_seconds()
            place = folder / str(divisor)
            growth.costs[scale.manifests] = measure(url, place, seconds)
            if divisor == min(divisors) and dead_blobs:
                growth.collection = measure_collection(
                    url, folder / "collection", dead_blobs, per_second=per_second
                )
                print(growth.collection, flush=True)
            server.drop_database(url)
    return growth


def _cell(cost: Cost) -> str:
    return f"{cost.p50:.2f} ms; {cost.server_cpu:.0f} + {cost.postgresql_cpu:.0f} µs"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
