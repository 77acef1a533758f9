"""The cluster's status as people read it."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table

from dtr.cli.output import Text, cell, one_line
from dtr.cli.terminal import new_console, time_of

_KIB: Final = 1024

FAILED: Final = "FAILED"

Replica = dict[str, Any]


def rendered(document: dict[str, Any], *, is_current: bool = True) -> RenderableType:
    """Return the status for people; one that is not current claims nothing of now."""
    if not document["is_installed"]:
        return Text("DTR is not installed yet. Start with dtr install.")
    parts: list[RenderableType] = [
        _head(document, is_current=is_current),
        Text(),
        _replicas(document["replicas"]),
    ]
    if document["balancers"]:
        parts += [Text(), _balancers(document["balancers"])]
    operation = document["operation"]
    if operation is not None:
        phase = " ".join(filter(None, (operation["phase"], operation["message"])))
        running = f"Running: {operation['kind']} ({operation['id']}): {phase}"
        parts += [Text(), Text(one_line(running))]
    parts += [Text(), *_issues(document["rethink_system_tables"]["current_issues"])]
    return Group(*parts)


def _head(document: dict[str, Any], *, is_current: bool) -> Text:
    still = document["failures_tolerated"]
    count = sum(each["is_counted"] for each in document["replicas"])
    managers = sum(each["phase"] == "voter" for each in document["managers"])
    text = Text()
    if not is_current:
        text.append(f"Pushes {'worked' if document['is_writable'] else 'did not work'} then.")
    elif document["is_writable"] and document.get("is_read_only"):
        text.append("Pulls work; pushes are refused, in read-only mode.", style="yellow")
    elif document["is_writable"]:
        text.append("Pushes and pulls work.", style="green")
    else:
        text.append("Pushes do not work now; pulls may.", style="bold red")
    may_fail = "May still fail" if is_current else "Could fail then"
    text.append(
        f" {may_fail}: {still['replicas']} of {count} replicas, "
        f"{still['managers']} of {managers} managers."
    )
    stored = f"Storage: {document['storage']}. Version: {document['version']}."
    text.append(f"\n{one_line(stored)}")
    if document["external_url"]:
        text.append(f" Address: {one_line(document['external_url'])}.")
    return text


def _replicas(replicas: list[Replica]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in REPLICA_COLUMNS:
        table.add_column(name, no_wrap=True)
    for each in replicas:
        style = "red" if _health(each) == FAILED else ""
        table.add_row(*(cell(value(each), style) for value in REPLICA_COLUMNS.values()))
    return table


def _balancers(balancers: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in BALANCER_COLUMNS:
        table.add_column(name, no_wrap=True)
    for each in balancers:
        table.add_row(*(cell(value(each)) for value in BALANCER_COLUMNS.values()))
    return table


def _issues(issues: list[dict[str, Any]]) -> list[Text]:
    if not issues:
        return [Text("Nothing is wrong.", style="green")]
    lines = []
    for each in issues:
        mark, style = ("!! ", "bold red") if each["critical"] else ("!  ", "yellow")
        lines.append(Text(mark, style=style).append(one_line(each["description"]), style="default"))
    return lines


def _phase(each: Replica) -> str:
    return str(each["phase"]) if each["is_counted"] else f"{each['phase']}, not counted"


def _disk(each: Replica) -> str:
    if not each["disk_total_bytes"]:
        return "-"
    share = each["disk_free_bytes"] / each["disk_total_bytes"]
    return f"{size(each['disk_free_bytes'])} ({share:.0%})"


def _blobs(each: Replica) -> str:
    storage = each["storage"]
    if storage is None:
        return "-"
    lacking = f", {storage['under_copied']} lack copies" if storage["under_copied"] else ""
    return f"{storage['blobs']} ({size(storage['bytes'])}){lacking}"


def _day(moment: float | None) -> str:
    return (time_of(moment) or "-").partition(" ")[0]


def _age(each: Replica) -> str:
    age = each["report_age_seconds"]
    return "never" if age is None else f"{age:.0f} s ago"


def _health(each: Replica) -> str:
    if each["health"] == "OK":
        return "ok"
    # One that is on its way in or out has not failed: it does not serve yet, or no more.
    return FAILED if each["phase"] == "serving" else "-"


def _state(each: dict[str, Any]) -> str:
    return "ready" if each["is_ready"] else each["message"] or "not ready"


def _pool(each: dict[str, Any]) -> str:
    return " ".join(f"{name}:{state}" for name, state in each["pool"].items()) or "-"


def size(count: int | None) -> str:
    """Return a number of bytes as people read it.

    >>> size(0), size(1536), size(None)
    ('0 B', '1.5 KiB', '-')
    """
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < _KIB:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _KIB
    return f"{value:.1f} TiB"


def console() -> Console:
    """Return where it is shown."""
    # Into a pipe or a file nothing is cut to the width of a screen.
    return new_console()


REPLICA_COLUMNS: Final[Mapping[str, Callable[[Replica], Any]]] = {
    "replica": lambda each: each["id"],
    "node": lambda each: each["node"],
    "role": lambda each: each["role"] or "-",
    "phase": _phase,
    "health": _health,
    "lag": lambda each: size(each["lag_bytes"]),
    "disk free": _disk,
    "blobs": _blobs,
    "version": lambda each: each["version"] or "-",
    "certificate": lambda each: _day(each["certificate_expires_at"]),
    "reported": _age,
}
"""Whatever a cell of these tables shows as bad has a sentence in `cluster.issues`."""
BALANCER_COLUMNS: Final[Mapping[str, Callable[[dict[str, Any]], Any]]] = {
    "load balancer": lambda each: each["node"],
    "address": lambda each: f"{each['address']}:{each['https_port']}",
    "state": _state,
    "pool": _pool,
}
