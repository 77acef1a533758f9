"""`ucp node`."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from dtr.cli.output import echo, one_line
from dtr.cli.terminal import JsonOption, confirm, show, show_json, time_of
from dtr.cli.ucp.connection import ConnectionOptions, connected, takes_connection

commands = typer.Typer(no_args_is_help=True, help="Machines that UCP manages.")

NodeArgument = Annotated[
    str, typer.Argument(metavar="NODE", help="The node's name or id, as 'ucp node ls' shows it.")
]


@commands.command("ls")
@takes_connection
def list_nodes(options: ConnectionOptions, as_json: JsonOption = False) -> None:
    """List the machines that UCP manages."""
    with connected(options) as client:
        nodes = client.nodes()
    if as_json:
        show_json(nodes)
        return
    show_nodes(nodes)


def show_nodes(nodes: list[dict[str, Any]]) -> None:
    """Show nodes as a table."""
    columns = {
        "name": lambda node: node["name"],
        "state": lambda node: "paused" if node["is_paused"] else node["state"],
        "manager": _manager,
        "role": lambda node: node["role"],
        "address": lambda node: node["host_address"],
        "services": lambda node: " ".join(_services(node)) or None,
        "version": lambda node: node.get("version"),
        "id": lambda node: node["id"],
    }
    show(nodes, columns, as_json=False)


@commands.command("inspect")
@takes_connection
def inspect_node(
    options: ConnectionOptions, node: NodeArgument, as_json: JsonOption = False
) -> None:
    """Show a node in detail, with its processes and problems."""
    with connected(options) as client:
        found = client.call("GET", f"/nodes/{quote(node, safe='')}")
    if as_json:
        show_json(found)
        return
    rows = [
        ("name", found["name"]),
        ("id", found["id"]),
        ("address", found["host_address"]),
        ("state", found["state"] + (", paused" if found["is_paused"] else "")),
        ("role", found["role"]),
        ("manager", _manager(found)),
        ("joined", time_of(found["joined_at"])),
        ("reported", _ago(found)),
        ("version", found.get("version")),
        ("certificate", _until(found)),
        ("disk", _disk(found)),
        ("services", ", ".join(_services(found))),
    ]
    for name, value in rows:
        echo(f"{name:12}{one_line(str(value or '-'))}")
    processes = found.get("processes", [])
    if processes:
        echo("")
        show(
            processes,
            {
                "process": lambda each: each["name"],
                "state": lambda each: each["state"],
                "pid": lambda each: each["pid"],
                "since": lambda each: time_of(each["since"]),
                "restarts": lambda each: each["restarts"],
                "message": lambda each: each["message"] or None,
            },
            as_json=False,
        )
    for problem in found.get("problems", []):
        echo(f"\n{one_line(problem)}")


@commands.command("rm")
@takes_connection
def remove_node(
    options: ConnectionOptions,
    node: NodeArgument,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Remove the node even if it hosts a replica or a balancer, because the machine"
            " is lost.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove a node; its certificate is no longer accepted.

    The last manager cannot be removed, nor a node that hosts a replica or a balancer. Afterwards
    run 'ucp uninstall' on the machine itself.
    """
    with connected(options) as client:
        found = client.call("GET", f"/nodes/{quote(node, safe='')}")
        confirm(f"Remove the node {found['name']} ({found['host_address']})?", yes=yes)
        removed = client.call(
            "DELETE", f"/nodes/{found['id']}", params={"force": "true"} if force else None
        )
    if as_json:
        show_json(removed)
        return
    echo(f"Removed {removed['name']}.")


@commands.command("promote")
@takes_connection
def promote(options: ConnectionOptions, node: NodeArgument, as_json: JsonOption = False) -> None:
    """Make a node a manager; this takes seconds, 'ucp status' shows it."""
    _change(options, node, "promote", as_json=as_json)


@commands.command("demote")
@takes_connection
def demote(options: ConnectionOptions, node: NodeArgument, as_json: JsonOption = False) -> None:
    """Make a node a worker; refused for the last manager."""
    _change(options, node, "demote", as_json=as_json)


@commands.command("pause")
@takes_connection
def pause(options: ConnectionOptions, node: NodeArgument, as_json: JsonOption = False) -> None:
    """Start no new services on a node; running services continue."""
    _change(options, node, "pause", as_json=as_json)


@commands.command("resume")
@takes_connection
def resume(options: ConnectionOptions, node: NodeArgument, as_json: JsonOption = False) -> None:
    """End a pause."""
    _change(options, node, "resume", as_json=as_json)


def _change(options: ConnectionOptions, node: str, change: str, *, as_json: bool) -> None:
    with connected(options) as client:
        found = client.call("POST", f"/nodes/{quote(node, safe='')}/{change}")
    if as_json:
        show_json(found)
        return
    done = {
        "promote": "will be a manager",
        "demote": "will be a worker",
        "pause": "gets no new services",
        "resume": "can get new services again",
    }
    echo(f"{found['name']} {done[change]}.")


def _manager(node: dict[str, Any]) -> str | None:
    if node["is_manager"]:
        return "yes"
    return node["manager_phase"] or None


def _services(node: dict[str, Any]) -> list[str]:
    return [f"{name}:{found}" if found else name for name, found in node["services"].items()]


def _ago(node: dict[str, Any]) -> str | None:
    seconds = node.get("reported_seconds_ago")
    return None if seconds is None else f"{seconds:g} s ago"


def _until(node: dict[str, Any]) -> str | None:
    moment = node.get("certificate_expires_at")
    return f"until {time_of(moment)}" if moment else None


def _disk(node: dict[str, Any]) -> str | None:
    if not node.get("disk_total_bytes"):
        return None
    free, total = node["disk_free_bytes"] / 2**30, node["disk_total_bytes"] / 2**30
    return f"{free:.1f} of {total:.1f} GiB free"
