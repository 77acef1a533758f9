"""A picture of cost against size: one line for each kind of request, both axes logarithmic."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from benchmarks.scale.growth import Growth
from benchmarks.scale.measure import WORKS

_WIDTH: Final = 880
_HEIGHT: Final = 460
_LEFT: Final = 70
_RIGHT: Final = 310
_TOP: Final = 50
_BOTTOM: Final = 70
_COLOURS: Final = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e",
    "#8c564b", "#e377c2", "#17becf", "#7f7f7f",
)  # fmt: skip


def draw(growth: Growth) -> str:
    """Return an SVG document."""
    sizes = sorted(growth.costs)
    curves = {
        work.title: [growth.costs[size][work.key].cpu / 1e3 for size in sizes] for work in WORKS
    }
    x, y = _x_of(sizes), _y_of(curves)
    parts = [*_frame(growth, sizes, x), *_grid(curves, y)]
    for values, colour in zip(curves.values(), _COLOURS, strict=False):
        points = [(x(size), y(value)) for size, value in zip(sizes, values, strict=True)]
        line = " ".join(f"{left:.1f},{top:.1f}" for left, top in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3" fill="{colour}"/>'
            for left, top in points
        ]
    parts += _legend(curves)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        ' font-family="sans-serif" font-size="12" fill="#333">'
    )
    return "\n".join(
        [
            head,
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _x_of(sizes: Sequence[int]) -> "_Scale":
    return _Scale(sizes[0], sizes[-1], _LEFT, _WIDTH - _RIGHT)


def _y_of(curves: Mapping[str, Sequence[float]]) -> "_Scale":
    every = [value for values in curves.values() for value in values]
    lowest, highest = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    return _Scale(10**lowest, 10**highest, _HEIGHT - _BOTTOM, _TOP)


class _Scale:
    """A logarithmic axis from `first` at `start` to `last` at `stop`."""

    def __init__(self, first: float, last: float, start: float, stop: float) -> None:
        self._first = math.log10(first)
        self._span = math.log10(last) - self._first or 1.0
        self._start, self._stop = start, stop

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self._first) / self._span
        return self._start + share * (self._stop - self._start)


def _frame(growth: Growth, sizes: Sequence[int], x: _Scale) -> list[str]:
    facts = growth.machine
    named = f"{facts['CPU']}, {facts['cores']} cores, {facts['memory']}, {growth.date}"
    base = _HEIGHT - _BOTTOM
    parts = [
        _text(_LEFT, 24, "Processor time of a request (DTR and PostgreSQL), ms", size=15),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, base + 38, "manifests in the registry", "middle"),
        _text(_LEFT, _HEIGHT - 10, named),
    ]
    parts += [_text(x(size), base + 20, f"{size:,}", "middle") for size in sizes]
    return parts


def _grid(curves: Mapping[str, Sequence[float]], y: _Scale) -> list[str]:
    every = [value for values in curves.values() for value in values]
    powers = range(math.floor(math.log10(min(every))), math.ceil(math.log10(max(every))) + 1)
    parts = []
    for power in powers:
        top = y(10.0**power)
        parts.append(
            f'<line x1="{_LEFT}" y1="{top:.1f}" x2="{_WIDTH - _RIGHT}" y2="{top:.1f}"'
            ' stroke="#ddd"/>'
        )
        parts.append(_text(_LEFT - 8, top + 4, f"{10.0**power:g}", "end"))
    return parts


def _legend(curves: Mapping[str, Sequence[float]]) -> list[str]:
    left = _WIDTH - _RIGHT + 24
    parts = []
    ordered = sorted(zip(curves.items(), _COLOURS, strict=False), key=lambda each: -each[0][1][-1])
    for number, ((title, _), colour) in enumerate(ordered):
        top = _TOP + 10 + number * 22
        parts.append(f'<rect x="{left}" y="{top - 9}" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(left + 18, top + 1, title))
    return parts


def _text(left: float, top: float, words: str, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}" font-size="{size}">'
        f"{escape(words)}</text>"
    )
