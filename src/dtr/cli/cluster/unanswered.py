"""What `dtr status` and `ucp status` do where no controller answers: show what this node knows."""

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from rich.console import Group, RenderableType
from rich.table import Table

from dtr.cli.cluster.rendering import console, rendered
from dtr.cli.output import Text, cell, one_line
from dtr.cli.terminal import fail, show_json, time_of
from dtr.cli.ucp.connection import ConnectionOptions, identity_of, log_in
from dtr.cli.ucp.this_node import ThisNode, look_at_this_node
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.client import NO_MAJORITY, UcpClient, UcpError

_NOBODY_DECIDES: Final = frozenset({0, 503})


class UnansweredError(Exception):
    """No controller can be worked with."""

    def __init__(self, controllers: Mapping[str, str], node: ThisNode | None, problem: str) -> None:
        super().__init__(problem)
        self.controllers = controllers
        """Those that were tried, and why each cannot be worked with."""
        self.node = node
        """What this machine knows, where it is a node that this user may look at."""
        self.problem = problem
        """What is to be said where it is none, or is not."""

    def shown(self) -> dict[str, Any]:
        """Return it as JSON can carry it."""
        if self.node is not None:
            return self.node.shown()
        return {
            "is_control_plane_answering": False,
            "controllers": dict(self.controllers),
            "advice": [self.problem],
        }


def ask_for_status(client: UcpClient, options: ConnectionOptions, path: str) -> dict[str, Any]:
    """Return what a controller answers; nobody is asked for a password that nobody would check.

    Raises:
        UnansweredError: no controller can be worked with.
        UcpError: one refuses.

    """
    problems = client.look()
    if problems:
        raise _unanswered(options, problems)
    try:
        if not client.username:
            log_in(client, options)
        found: dict[str, Any] = client.call("GET", path)
    except UcpError as error:
        if error.status not in _NOBODY_DECIDES:
            raise
        raise _unanswered(options, client.look() or {client.address: error.what}) from None
    return found


def fail_unanswered(error: UnansweredError, *, as_json: bool) -> NoReturn:
    """Show what this node knows, and end with exit status 1."""
    if as_json:
        show_json(error.shown())
    elif error.node is not None:
        console().print(shown_alone(error))
    fail(error.problem)


def shown_alone(error: UnansweredError) -> RenderableType:
    """Return what this node knows, for people: what to do comes last, where the eye is."""
    node = error.node
    head = Text(_headline(error.controllers), style="bold red")
    parts: list[RenderableType] = [head, _controllers(error.controllers)]
    if node is None:
        return Group(*parts, Text(), Text(error.problem))
    parts += [Text(), _own_head(node)]
    if node.report is not None:
        parts += [_processes(node.report["processes"])]
        parts += [Text(f"!  {one_line(each)}", style="yellow") for each in node.report["problems"]]
    if node.status is not None:
        age = _ago(node.status_age_seconds)
        title = Text(f"The cluster, as a controller reported it {age}; it may have changed since:")
        parts += [Text(), title, rendered(dict(node.status), is_current=False)]
    parts += [Text(), Text("What to do", style="bold")]
    parts += [Text(f"- {one_line(each)}") for each in node.advice()]
    return Group(*parts)


def _unanswered(options: ConnectionOptions, problems: Mapping[str, str]) -> UnansweredError:
    what = _headline(problems)
    lines = "".join(f"\n- {one_line(f'{address}: {why}')}" for address, why in problems.items())
    identity = identity_of(options.data_directory)
    if identity is None or options.url is not None:
        remedy = (
            "Start the managers that are down. On a node this command shows more."
            if NO_MAJORITY in problems.values()
            else "Check the address (--ucp-url), and that the port is open. On a node this command "
            "tells more."
        )
        return UnansweredError(problems, None, f"{what} {remedy}{lines}")
    try:
        directory = NodeDirectory(options.data_directory.absolute())
        node = look_at_this_node(directory, identity, problems)
    except UcpError as error:
        return UnansweredError(problems, None, f"{what} {error}{lines}")
    return UnansweredError(problems, node, f"{what} What to do is shown above.")


def _headline(problems: Mapping[str, str]) -> str:
    is_alive = NO_MAJORITY in problems.values()
    return "No majority of etcd answers." if is_alive else "No controller answers."


def _controllers(problems: Mapping[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("controller", "what is wrong"):
        table.add_column(name)
    for address, why in problems.items():
        table.add_row(cell(address), cell(why))
    return table


def _own_head(node: ThisNode) -> Text:
    agent = "the agent runs" if node.is_agent_running else "the agent does not run"
    text = Text(f"This node: {node.name} ({node.address}); {agent}")
    if node.report_age_seconds is not None:
        text.append(f"; as of {_ago(node.report_age_seconds)}")
    heard = "never" if node.heard_seconds_ago is None else _ago(node.heard_seconds_ago)
    text.append(f". Last contact with a controller: {heard}.")
    if node.registry_health is not None:
        is_well = node.registry_health == "OK"
        text.append("\nThe registry here: ")
        told = "healthy" if is_well else node.registry_health
        text.append(one_line(told), style="green" if is_well else "red")
    return text


def _processes(processes: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("process", "state", "pid", "since", "restarts", "message"):
        table.add_column(name)
    for each in processes:
        pid = "-" if each["pid"] is None else str(each["pid"])
        cells = (each["name"], each["state"], pid, time_of(each["since"]), each["restarts"])
        table.add_row(*map(cell, (*cells, each["message"])))
    return table


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "at a time unknown"
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name} ago"
    return f"{seconds:.0f} s ago"
