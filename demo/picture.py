"""A scene as a picture for a terminal of at least 80 columns and 24 lines.

The colours are those of the terminal, and text on a ground of its own brings its own colour, so
that all can be read on a light terminal as on a dark one. Nothing wraps: what is too long is cut.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo.scene import MINUTE, ClientsSeen, MachineSeen, Scene, Second, StepSeen

_BARS: Final = "▁▂▃▄▅▆▇█"
_WIDE: Final = 112
"""From so many columns on the last minute has a column for each second."""
_AROUND_STEPS: Final = 17
"""Lines of everything else, and of the frame around the steps."""
_GOOD: Final = "green"
_BAD: Final = "bold red"
_SHORT: Final = "dark_orange3"
_KIB: Final = 1024


class Picture:
    """What `rich` can show of a scene; it takes exactly the room that it is given."""

    def __init__(self, scene: Scene, *, is_all: bool = False) -> None:
        """Of `is_all` every step is shown, however many lines that takes."""
        self._scene = scene
        self._is_all = is_all

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        scene, width = self._scene, options.max_width
        room = max(1, (options.height or console.height) - _AROUND_STEPS)
        if self._is_all:
            room = len(scene.steps)
        yield _head(scene)
        yield _cards(scene.machines, width)
        yield _verdict(scene)
        yield _balancer(scene)
        yield _issue(scene)
        yield _clients(scene, width)
        yield _steps(_with_phase(scene), room)


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _head(scene: Scene) -> RenderableType:
    line = Table.grid(expand=True, padding=(0, 1))
    line.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    line.add_column(no_wrap=True, justify="right")
    title = _badge_of(" DTR ", "blue").append(
        f" {scene.message or 'three machines, one of which will die'}"
    )
    line.add_row(title, Text(clock(scene.elapsed), "bold"))
    return line


def clock(seconds: float) -> str:
    """Return minutes and seconds.

    >>> clock(125.9)
    '2:05'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


# --- the machines --------------------------------------------------------------------------------


def _cards(machines: Sequence[MachineSeen], width: int) -> RenderableType:
    if not machines:
        return Panel(Text("They are made …"), title="the machines", height=6, width=width)
    row = Table.grid(expand=True)
    for _ in machines:
        row.add_column(ratio=1)
    row.add_row(*map(_card, machines))
    return row


def _card(machine: MachineSeen) -> RenderableType:
    if not machine.has_power:
        return _dead_card(machine)
    style = "default" if machine.is_well else _SHORT
    return Panel(
        Group(_badge(machine), *map(_line, _facts(machine))),
        title=Text(machine.name, "bold"),
        border_style=style,
        height=6,
    )


def _dead_card(machine: MachineSeen) -> RenderableType:
    said = "nothing"
    if machine.replica is not None:
        role = machine.replica["role"] or "no role"
        said = f"{role}, {'ok' if machine.replica['health'] == 'OK' else 'FAILED'}"
    lines = [
        _badge_of(" NO POWER ", "red").append(f" {machine.since:.0f} s", "red"),
        Text("All of it was killed.", "red"),
        Text("dtr status says:", "red"),
        Text(said, "red"),
    ]
    title = Text(f"{machine.name} is dead", _BAD)
    return Panel(
        Group(*map(_line, lines)), title=title, border_style="red", box=box.HEAVY, height=6
    )


def _badge(machine: MachineSeen) -> Text:
    replica = machine.replica
    if replica is None:
        return _line(Text("node of UCP" if machine.is_manager else "not a node yet", "dim"))
    if replica["phase"] != "serving":
        words = {"database": " JOINING ", "draining": " DRAINING ", "leaving": " LEAVING "}
        name = words.get(replica["phase"], replica["phase"])
        return _badge_of(name, "magenta")
    if not machine.is_well and machine.since:
        return _badge_of(" COMES BACK ", "magenta")
    if replica["role"] == "primary":
        return _badge_of(" PRIMARY ", "blue")
    return _line(Text().append(" STANDBY " if replica["role"] else " NO ROLE ", "bold reverse"))


def _badge_of(name: str, colour: str) -> Text:
    """Return a name on a ground, of which nothing that follows takes over anything."""
    return _line(Text().append(name, f"bold white on {colour}"))


def _facts(machine: MachineSeen) -> list[Text]:
    replica = machine.replica
    if replica is None:
        return [Text("no replica", "dim")]
    if replica["health"] == "OK":
        health = Text().append("● ", _GOOD).append("healthy")
    elif replica["phase"] == "serving":
        health = Text().append("● ", _BAD).append("not healthy", _SHORT)
    else:
        health = Text("○ on its way")
    lag = replica["lag_bytes"]
    is_primary = replica["role"] == "primary"
    behind = "takes the writes" if is_primary else f"behind by {size(lag)}"
    storage = replica["storage"]
    blobs = f"{storage['blobs']} blobs, {size(storage['bytes'])}" if storage else "no blobs yet"
    return [health, Text(behind), Text(blobs)]


def size(count: int | None) -> str:
    """Return a number of bytes as people read it.

    >>> size(0), size(1536), size(None)
    ('0 B', '1.5 KiB', '?')
    """
    if count is None:
        return "?"
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < _KIB:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _KIB
    return f"{value:.1f} GiB"


# --- what the cluster says -----------------------------------------------------------------------


def _named(name: str) -> Text:
    return Text().append(f"{name:<10}", "bold")


def _verdict(scene: Scene) -> Text:
    status = scene.status
    if scene.silence:
        return _line(_named("status").append(scene.silence, _SHORT))
    if not status.get("is_installed"):
        return _line(_named("status").append("DTR is not installed yet", "dim"))
    line = _named("status")
    if not any(each["is_counted"] for each in status["replicas"]):
        return _line(line.append("the first replica is being made", "dim"))
    if status["is_writable"]:
        line.append("Pushes and pulls work.", _GOOD)
    else:
        line.append("Pushes do not work now; pulls may.", _BAD)
    still, count = status["failures_tolerated"], sum(e["is_counted"] for e in status["replicas"])
    line.append(
        f" May fail: {still['replicas']} of {count} replicas,"
        f" {still['managers']} of {len(status['managers'])} managers."
    )
    return _line(line)


def _balancer(scene: Scene) -> Text:
    line = _named("balancer")
    balancers = scene.status.get("balancers", ())
    if not balancers:
        return _line(line.append("none yet", "dim"))
    names = {each["id"]: each["node"] for each in scene.status["replicas"]}
    pool = {names.get(key, key): state for key, state in balancers[0]["pool"].items()}
    line.append("sends clients to" if pool else "has nobody to send clients to")
    for name, state in sorted(pool.items()):
        is_up = state.upper().startswith("UP")
        line.append(f"  {name}", _GOOD if is_up else _BAD).append(
            "" if is_up else f" ({state})", _SHORT
        )
    return _line(line)


def _issue(scene: Scene) -> Text:
    line = _named("amiss")
    if not scene.status:
        return _line(line.append("nobody has looked yet", "dim"))
    issues = scene.status["rethink_system_tables"]["current_issues"]
    if not issues:
        return _line(line.append("nothing", _GOOD))
    if len(issues) > 1:
        line.append(f"({len(issues)}) ", _SHORT)
    first = max(issues, key=lambda each: bool(each["critical"]))
    return _line(line.append(first["description"], _SHORT))


# --- the clients ---------------------------------------------------------------------------------


def _clients(scene: Scene, width: int) -> RenderableType:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, expand=True, header_style="dim")
    seconds = 1 if width >= _WIDE else 2
    table.add_column("")
    for name in ("done", "again", "rate"):
        table.add_column(name, justify="right", no_wrap=True, min_width=6)
    columns = MINUTE // seconds
    past = Text("last minute  ").append("■", _SHORT).append(" one is off", "dim")
    table.add_column(past[:columns], width=columns, no_wrap=True)
    table.add_column("longest wait", justify="right", no_wrap=True)
    for each in scene.clients:
        table.add_row(*_client(each, seconds))
    word = Text(f" {scene.failed} failed ", _BAD if scene.failed else _GOOD)
    title = "clients of the balancer"
    return Panel(table, title=title, subtitle=word, subtitle_align="right", height=5)


def _client(clients: ClientsSeen, seconds: int) -> tuple[RenderableType, ...]:
    return (
        Text(clients.name, "bold"),
        str(clients.done),
        str(clients.repeated),
        f"{clients.rate:.1f}/s",
        sparkline(clients.minute, seconds),
        f"{clients.longest_wait:.1f} s",
    )


def sparkline(minute: Sequence[Second], seconds: int) -> Text:
    """Draw the last minute, `seconds` to a column; the highest column is the most in it.

    >>> sparkline([Second(0, False), Second(1, False), Second(4, True)], 1).plain.strip()
    '▁▃█'
    """
    # Columns end at the present; the oldest one may be of fewer seconds.
    starts = range(len(minute), 0, -seconds)
    groups = [minute[max(0, end - seconds) : end] for end in starts][::-1]
    counts = [sum(each.done for each in group) for group in groups]
    top = max([1, *counts])
    line = Text(" " * (MINUTE // seconds - len(groups)))
    for count, group in zip(counts, groups, strict=True):
        is_short = any(each.is_short for each in group)
        bar = _BARS[-(-count * (len(_BARS) - 1) // top)]
        line.append(bar, "dim" if not count else _SHORT if is_short else "cyan")
    return line


# --- the steps -----------------------------------------------------------------------------------


def _steps(steps: Sequence[StepSeen], room: int) -> RenderableType:
    shown = steps[-room:] if len(steps) <= room else steps[-room + 1 :] if room > 1 else steps[-1:]
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(justify="right", width=8, no_wrap=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True)
    if len(shown) < len(steps) and room > 1:
        table.add_row("", Text(f"… {len(steps) - len(shown)} steps before", "dim"), "")
    for step in shown:
        table.add_row(*_step(step))
    return Panel(table, title="what happens", height=room + 2)


def _with_phase(scene: Scene) -> Sequence[StepSeen]:
    """Give the steps; what runs says in which phase the control plane is with it."""
    operation = scene.status.get("operation")
    if not scene.steps or not scene.steps[-1].is_running or not operation:
        return scene.steps
    return (*scene.steps[:-1], replace(scene.steps[-1], note=operation["phase"]))


def _step(step: StepSeen) -> tuple[Text, Text, Text]:
    style = _BAD if step.is_failed else "bold cyan" if step.is_running else _GOOD
    prompt, dollar, command = step.title.partition("$ ")
    title = Text(prompt + dollar, "dim").append(command, "not dim") if dollar else Text(step.title)
    if step.is_running:
        title.stylize("bold")
    note = Text(step.note, "cyan" if step.is_running else _GOOD)
    return Text(f"{step.seconds:.1f} s", style), title, note
