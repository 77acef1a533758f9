"""The tables that a run leaves behind: Markdown to read, JSON to compare."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.contenders import OURS, is_ours
from benchmarks.content import Sizes
from benchmarks.rows import LESS_IS_BETTER, MEGABYTE
from benchmarks.runner import Column, Outcome

DISK_SHARE = 0.9


@dataclass(frozen=True)
class Report:
    """A finished run."""

    date: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    """Of each contender that took part, by its title."""
    titles: Mapping[str, str]
    skipped: Mapping[str, str]
    """Why, by the title of each that was asked for and could not take part."""
    missing: frozenset[str]
    """The keys of the same."""
    sizes: Sizes
    quick: bool
    outcomes: Sequence[Outcome]

    def markdown(self) -> str:
        """Return the whole report."""
        parts = [f"# Benchmarks of {self.date}", ""]
        if self.quick:
            parts += ["A smoke test with tiny sizes: **the figures mean nothing.**", ""]
        parts += [*_table(("machine", ""), self.machine.items()), ""]
        parts += [*_table(("contender", "version"), self.versions.items()), ""]
        parts += [f"{title} left out: {why}\n" for title, why in self.skipped.items()]
        parts += [self._method(), "", "## Results", "", *self._results(), ""]
        parts += ["## Spread and cost", "", *self._costs(), ""]
        parts += self._failures()
        return "\n".join(parts)

    def as_json(self) -> str:
        """Return every single measurement."""
        return json.dumps(
            {
                "date": self.date,
                "quick": self.quick,
                "machine": dict(self.machine),
                "versions": dict(self.versions),
                "skipped": dict(self.skipped),
                "sizes": asdict(self.sizes),
                "rows": {outcome.row.key: _row_json(outcome) for outcome in self.outcomes},
            },
            indent=1,
        )

    @property
    def has_failures(self) -> bool:
        """Whether any cell could not be measured, or ours was asked for and is not there."""
        if OURS in self.missing:
            return True
        return any(column.failure for each in self.outcomes for column in each.columns.values())

    def _method(self) -> str:
        sizes = self.sizes
        return (
            f"Medians of {sizes.rounds} rounds, contender by contender in turn;"
            f" {sizes.seconds:g} s for each run of a rate. Authentication on for DTR (a bearer"
            " token with every request), off for the others. The load generator ran on the same"
            " processors. Ratios say how many times better DTR was in this run."
            f" The large blob had {sizes.big_bytes / 2**20:,.0f} MiB."
        )

    def _results(self) -> list[str]:
        peers = [key for key in self.titles if not is_ours(key)]
        header = ("work", "unit", *self.titles.values())
        header += tuple(f"against {self.titles[peer]}" for peer in peers)
        rows = []
        for outcome in self.outcomes:
            values = [_value(outcome.columns.get(key)) for key in self.titles]
            if outcome.row.limit and OURS in outcome.columns:
                values[list(self.titles).index(OURS)] += _limit_verdict(outcome)
            ratios = [verdict(outcome, peer) for peer in peers]
            rows.append((outcome.row.title, outcome.row.unit, *values, *ratios))
            if outcome.disk:
                rows.append(_disk_line(outcome, len(header)))
        return _table(header, rows)

    def _costs(self) -> list[str]:
        header = (
            "work", "contender", "lowest - highest", "p50 ms", "p99 ms", "CPU s",
            "CPU µs a request", "peak RSS MB", "CPU s of others", "other figures",
        )  # fmt: skip
        rows = []
        for outcome in self.outcomes:
            for key, column in outcome.columns.items():
                if column.measured:
                    rows.append((outcome.row.title, self.titles[key], *_cost(column)))
        return _table(header, rows)

    def _failures(self) -> list[str]:
        lines = [
            f"- **{outcome.row.title}, {self.titles[key]}**: {column.failure}"
            for outcome in self.outcomes
            for key, column in outcome.columns.items()
            if column.failure
        ]
        return ["## Failures", "", *lines, ""] if lines else []


def ratio(outcome: Outcome, peer: str) -> float | None:
    """Return how many times better ours was than a peer, or nothing when one is missing."""
    ours, theirs = (_middle(outcome.columns.get(key)) for key in (OURS, peer))
    if not ours or not theirs:
        return None
    return theirs / ours if outcome.row.unit in LESS_IS_BETTER else ours / theirs


def verdict(outcome: Outcome, peer: str) -> str:
    """Return the ratio with its budget and whether it was met."""
    found, budget = ratio(outcome, peer), outcome.row.budgets.get(peer)
    if found is None:
        return "-" if budget is None else f"- (at least {budget:g} x)"
    if budget is None:
        return f"{found:.2f} x"
    is_met = found >= budget or _is_near_disk(outcome)
    return f"{found:.2f} x (at least {budget:g} x) {'met' if is_met else '**MISSED**'}"


def _is_near_disk(outcome: Outcome) -> bool:
    ours = _middle(outcome.columns.get(OURS))
    return bool(ours and outcome.disk and ours >= DISK_SHARE * median(outcome.disk))


def _limit_verdict(outcome: Outcome) -> str:
    ours, limit = _middle(outcome.columns[OURS]), outcome.row.limit
    if ours is None or limit is None:
        return ""
    return f" (at most {limit:g}) {'met' if ours <= limit else '**MISSED**'}"


def _disk_line(outcome: Outcome, width: int) -> tuple[str, ...]:
    disk = median(outcome.disk)
    ours = _middle(outcome.columns.get(OURS))
    share = f"DTR {ours / disk:.2f} of it" if ours else ""
    cells = (f"{outcome.row.title}: dd conv=fdatasync", "MB/s", f"{_figure(disk)} {share}".strip())
    return cells + ("",) * (width - len(cells))


def _cost(column: Column) -> Iterator[str]:
    values = [each.value for each in column.measured]
    details = {
        name: median(each.details[name] for each in column.measured)
        for name in column.measured[0].details
    }
    requests = details.pop("requests", None)
    cpu = median(usage.cpu_seconds for usage in column.usages) if column.usages else None
    yield f"{_figure(min(values))} - {_figure(max(values))}"
    yield _optional(details.pop("p50 ms", None))
    yield _optional(details.pop("p99 ms", None))
    yield _optional(cpu)
    yield _optional(cpu / requests * 1e6 if cpu is not None and requests else None)
    peaks = [usage.peak_rss / MEGABYTE for usage in column.usages]
    yield _optional(median(peaks) if peaks else None)
    others = [usage.foreign_cpu_seconds for usage in column.usages]
    yield _optional(median(others) if others else None)
    yield ", ".join(f"{name} {_figure(value)}" for name, value in details.items())


def _row_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "title": outcome.row.title,
        "unit": outcome.row.unit,
        "budgets": dict(outcome.row.budgets),
        "limit": outcome.row.limit,
        "disk": outcome.disk,
        "ratios": {peer: ratio(outcome, peer) for peer in outcome.columns if not is_ours(peer)},
        "contenders": {
            key: {
                "median": _middle(column),
                "measured": [asdict(each) for each in column.measured],
                "usage": [asdict(usage) for usage in column.usages],
                "failure": column.failure or None,
            }
            for key, column in outcome.columns.items()
        },
    }


def _middle(column: Column | None) -> float | None:
    """Return the median; a column that failed in any round has none."""
    if column is None or column.failure or not column.measured:
        return None
    return median(each.value for each in column.measured)


def _value(column: Column | None) -> str:
    return "**FAILED**" if column and column.failure else _optional(_middle(column))


def _optional(value: float | None) -> str:
    return "-" if value is None else _figure(value)


def _figure(value: float) -> str:
    """Return three significant digits, and whole numbers from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]
