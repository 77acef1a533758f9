"""Pictures of a terminal as one animated SVG: drawn once for every distinct line, then shown.

The frames and bars of a terminal's characters are drawn as shapes, for in a browser's fonts they
have gaps; text is stretched to its columns. No script and no font is fetched, so that it also moves
where a page shows it as an image. Whoever asks for less motion sees one frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from itertools import groupby
from typing import Final
from xml.sax.saxutils import escape

from rich.color import Color
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.terminal_theme import TerminalTheme

_CELL: Final = 8.4
_LINE: Final = 18
_MARGIN: Final = 14
_FONT: Final = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
_BARS: Final = "▁▂▃▄▅▆▇█"
# From the middle of a cell to its edges: right, left, up, down.
_STROKES: Final = {
    "─": "rl",
    "━": "rl",
    "│": "ud",
    "┃": "ud",
    "╭": "rd",
    "┏": "rd",
    "╮": "ld",
    "┓": "ld",
    "╰": "ru",
    "┗": "ru",
    "╯": "lu",
    "┛": "lu",
}
_HEAVY: Final = "━┃┏┓┗┛"
_EDGES: Final = {
    "r": (_CELL / 2, 0),
    "l": (-_CELL / 2, 0),
    "u": (0, -_LINE / 2),
    "d": (0, _LINE / 2),
}
_THEME: Final = TerminalTheme(
    (22, 27, 34),
    (201, 209, 217),
    [
        (72, 79, 88),
        (255, 110, 100),
        (86, 211, 100),
        (227, 179, 65),
        (56, 100, 200),
        (137, 87, 190),
        (86, 212, 221),
        (240, 246, 252),
    ],
    [],
)


@dataclass(frozen=True)
class Frame:
    """One picture, and how long it is to be seen."""

    picture: RenderableType
    seconds: float


@dataclass
class _Drawing:
    """What all frames share."""

    columns: int
    lines: dict[str, str] = field(default_factory=dict)
    """The names of the distinct lines, by their content."""
    classes: dict[str, str] = field(default_factory=dict)
    """The names of the distinct styles of text, by their rules."""

    def class_of(self, rules: str) -> str:
        return self.classes.setdefault(rules, f"s{len(self.classes)}")


def animation(frames: Sequence[Frame], still: int, *, columns: int, lines: int, title: str) -> str:
    """Return the SVG; `still` is the number of the frame for whoever wants no motion."""
    drawing = _Drawing(columns)
    shown = [_frame(drawing, frame.picture, lines) for frame in frames]
    total = sum(frame.seconds for frame in frames)
    width, height = columns * _CELL + 2 * _MARGIN, lines * _LINE + 2 * _MARGIN
    rules = _rules(drawing, frames, still, total)
    groups = "\n".join(
        f'<g class="f" id="f{number}">{uses}</g>' for number, uses in enumerate(shown)
    )
    definitions = "\n".join(
        f'<g id="{name}">{content}</g>' for content, name in drawing.lines.items()
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">
<title>{escape(title)}</title>
<style>
{rules}
</style>
<defs>
{definitions}
</defs>
<rect width="100%" height="100%" rx="8" fill="{_THEME.background_color.hex}"/>
<g transform="translate({_MARGIN},{_MARGIN})">
{groups}
</g>
</svg>
"""


def _rules(drawing: _Drawing, frames: Sequence[Frame], still: int, total: float) -> str:
    rules = [
        f"text{{font:14px {_FONT};fill:{_THEME.foreground_color.hex};white-space:pre}}",
        ".f{visibility:hidden}",
        f"#f{still}{{visibility:visible}}",
        *(f".{name}{{{each}}}" for each, name in drawing.classes.items()),
        "@media (prefers-reduced-motion:no-preference){",
        f".f{{animation:{total:.1f}s step-end infinite}}",
    ]
    begins = 0.0
    for number, frame in enumerate(frames):
        ends = begins + frame.seconds
        first, last = 100 * begins / total, 100 * ends / total
        before = "0%{visibility:hidden}" if number else ""
        after = f"{last:.2f}%{{visibility:hidden}}" if number < len(frames) - 1 else ""
        rules.append(
            f"@keyframes k{number}{{{before}{first:.2f}%{{visibility:visible}}{after}}}"
            f"#f{number}{{animation-name:k{number}}}"
        )
        begins = ends
    return "\n".join([*rules, "}"])


def _frame(drawing: _Drawing, picture: RenderableType, lines: int) -> str:
    console = Console(
        file=StringIO(),
        width=drawing.columns,
        height=lines,
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    options = console.options.update(height=lines)
    uses = []
    for number, segments in enumerate(console.render_lines(picture, options)[:lines]):
        content = _line(drawing, segments)
        if content:
            name = drawing.lines.setdefault(content, f"l{len(drawing.lines)}")
            uses.append(f'<use href="#{name}" y="{number * _LINE}"/>')
    return "".join(uses)


# --- lines ---------------------------------------------------------------------------------------


def _line(drawing: _Drawing, segments: Sequence[Segment]) -> str:
    """Return the shapes and texts of a line whose top is at 0."""
    cells: list[tuple[str, Style]] = []
    for segment in segments:
        cells += [(character, segment.style or Style()) for character in segment.text]
    shapes, start = [], 0
    for (style, kind), group in groupby(cells, key=lambda cell: (cell[1], _kind(cell[0]))):
        text = "".join(character for character, _ in group)
        shapes.append(_ground(style, start, len(text)))
        if kind == "text":
            shapes.append(_text(drawing, text, style, start))
        else:
            shapes.append(_shape(text, style, start))
        start += len(text)
    return "".join(shapes)


def _kind(character: str) -> str:
    if character in _STROKES:
        return "heavy" if character in _HEAVY else "light"
    return "bars" if character in _BARS or character == "■" else "text"


def _ground(style: Style, start: int, count: int) -> str:
    colour = _ground_colour(style)
    if not colour:
        return ""
    return (
        f'<rect x="{start * _CELL:.1f}" y="1" width="{count * _CELL:.1f}"'
        f' height="{_LINE - 2}" rx="2" fill="{colour}"/>'
    )


def _text(drawing: _Drawing, text: str, style: Style, start: int) -> str:
    """Return one element for each run of words that are one space apart."""
    found, position = [], 0
    for part in text.split("  "):
        words = part.strip()
        if words:
            x = (start + position + len(part) - len(part.lstrip())) * _CELL
            name = _class(drawing, style)
            found.append(
                f'<text{name} x="{x:.1f}" y="13" textLength="{len(words) * _CELL:.1f}"'
                f' lengthAdjust="spacingAndGlyphs">{escape(words)}</text>'
            )
        position += len(part) + 2
    return "".join(found)


def _shape(text: str, style: Style, start: int) -> str:
    paths = []
    for number, character in enumerate(text):
        x = (start + number) * _CELL
        if character in _STROKES:
            paths.append(_strokes(character, x))
        elif character == "■":
            paths.append(f"M{x + 1:.1f} 6h6v6h-6z")
        else:
            height = (_LINE - 4) * (_BARS.index(character) + 1) / len(_BARS)
            paths.append(f"M{x + 0.7:.1f} {_LINE - 2}v{-height:.1f}h{_CELL - 1.4:.1f}V{_LINE - 2}z")
    colour, faint = _colour(style), ' opacity=".5"' if style.dim else ""
    if text[0] not in _STROKES:
        return f'<path d="{"".join(paths)}" fill="{colour}"{faint}/>'
    if set(text) <= {"─", "━"}:
        x = start * _CELL
        paths = [f"M{x:.1f} {_LINE / 2}h{len(text) * _CELL:.1f}"]
    width = 2.4 if _kind(text[0]) == "heavy" else 1
    return f'<path d="{"".join(paths)}" stroke="{colour}" stroke-width="{width}" fill="none"/>'


def _strokes(character: str, x: float) -> str:
    middle = (x + _CELL / 2, _LINE / 2)
    (first, second) = (_EDGES[edge] for edge in _STROKES[character])
    return (
        f"M{middle[0] + first[0]:.1f} {middle[1] + first[1]:.0f}"
        f"L{middle[0]:.1f} {middle[1]:.0f}"
        f"L{middle[0] + second[0]:.1f} {middle[1] + second[1]:.0f}"
    )


# --- colours -------------------------------------------------------------------------------------


def _class(drawing: _Drawing, style: Style) -> str:
    rules = []
    colour = _colour(style)
    if colour != _THEME.foreground_color.hex:
        rules.append(f"fill:{colour}")
    if style.bold:
        rules.append("font-weight:bold")
    if style.dim:
        rules.append("opacity:.6")
    return f' class="{drawing.class_of(";".join(rules))}"' if rules else ""


def _colour(style: Style) -> str:
    if style.reverse:
        return _hex(style.bgcolor, is_text=False)
    return _hex(style.color, is_text=True)


def _ground_colour(style: Style) -> str:
    if style.reverse:
        return _hex(style.color, is_text=True)
    has_none = style.bgcolor is None or style.bgcolor.is_default
    return "" if has_none else _hex(style.bgcolor, is_text=False)


def _hex(colour: Color | None, *, is_text: bool) -> str:
    if colour is None or colour.is_default:
        return (_THEME.foreground_color if is_text else _THEME.background_color).hex
    return colour.get_truecolor(_THEME, foreground=is_text).hex
