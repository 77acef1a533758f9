"""What a command asks at a terminal where it was not told: a node, a replica; with a list first."""

import sys
from collections.abc import Sequence
from typing import Any

from dtr.cli.output import echo, one_line
from dtr.cli.terminal import fail
from dtr.cli.ucp.connection import ConnectionOptions, ask, identity_of
from dtr.ucp.client import UcpClient


def choose_node(client: UcpClient, given: str | None, *, free_of: str = "") -> str:
    """Return the node that was named, or is chosen from a numbered list.

    With `free_of`, a service's name, nodes that have that one are not offered.
    """
    if given:
        return given
    if not sys.stdin.isatty():
        return ask("ucp-node")  # fails, and names the option
    nodes = [
        node for node in client.nodes() if not free_of or free_of not in node.get("services", {})
    ]
    if not nodes:
        fail("Every node of UCP has one already. First join another machine: ucp join.")
    echo("Nodes:", err=True)
    for number, node in enumerate(nodes, 1):
        echo(one_line(f"  {number}) {node['name']}  {node['host_address']}"), err=True)
    answer = ask(
        "ucp-node",
        "The hostname of the node, or its number in the list",
        default=str(nodes[0]["name"]),
    )
    if answer.isdigit() and 1 <= int(answer) <= len(nodes):
        return str(nodes[int(answer) - 1]["name"])
    return answer


def list_replicas(client: UcpClient) -> list[dict[str, Any]]:
    """Return the cluster's replicas, as the control plane shows them."""
    found: dict[str, Any] = client.call("GET", "/dtr/replicas")
    return list(found["replicas"])


def need_replicas(client: UcpClient) -> list[dict[str, Any]]:
    """Return the replicas; without any it fails: nobody is asked which of none shall leave."""
    replicas = list_replicas(client)
    if not replicas:
        fail("DTR is not installed yet. Start with dtr install.")
    return replicas


def choose_existing(
    replicas: Sequence[dict[str, Any]], given: str | None, options: ConnectionOptions
) -> str:
    """Return a healthy replica: the one named, this machine's own, or the first.

    At a terminal it is asked for, with that one as the default.
    """
    if given or not replicas:
        return given or ""
    identity = identity_of(options.data_directory)
    healthy = [each for each in replicas if each["health"] == "OK"]
    own = [each for each in healthy if identity and each["node_id"] == identity.node_id]
    default = str((own or healthy)[0]["id"]) if healthy else ""
    if not sys.stdin.isatty():
        return default
    show_choice(replicas)
    known = [str(each["id"]) for each in replicas]
    while True:
        answer = ask(
            "existing-replica-id",
            "ID of an existing replica in a cluster",
            default=default or None,
        )
        if answer in known:
            return answer
        _ask_again(f"{answer} cannot be the existing replica. Choose one of: ", known)


def choose_leaving(
    replicas: Sequence[dict[str, Any]],
    given: str | None,
    *,
    variable: str,
    keeps: str | None = None,
    leaves_one: bool = True,
) -> list[str]:
    """Return the replicas to remove: those named, separated by commas, or asked for.

    `variable` is the command's own environment variable for them. What is typed is looked at while
    it can still be typed anew: replicas that there are, without `keeps`, and, with `leaves_one`,
    not all of them.
    """
    if given or not (sys.stdin.isatty() and replicas):
        return _ids(given or _ask_leaving(variable))
    show_choice(replicas)
    known = [str(each["id"]) for each in replicas]
    while True:
        leaving = _ids(_ask_leaving(variable))
        unknown = [each for each in leaving if each not in known]
        if unknown or not leaving:
            _ask_again(f"There is no replica {', '.join(unknown)}. Choose from: ", known)
        elif keeps in leaving:
            others = [each for each in known if each != keeps]
            _ask_again(
                f"{keeps} is the existing replica and cannot be removed. Choose from: ", others
            )
        elif leaves_one and set(known) <= set(leaving):
            echo(
                "No replica would be left. Name fewer, or delete the registry with dtr destroy.",
                err=True,
            )
        else:
            return leaving


def _ask_leaving(variable: str) -> str:
    return ask("replica-id", "ID of the replica to remove", variable=variable)


def _ids(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _ask_again(problem: str, choices: Sequence[str]) -> None:
    echo(one_line(f"{problem}{', '.join(choices)}"), err=True)


def show_choice(replicas: Sequence[dict[str, Any]]) -> None:
    """Print a line for each replica, on standard error as all questions."""
    echo("Replicas:", err=True)
    for each in replicas:
        health = "healthy" if each["health"] == "OK" else each["health"]
        row = f"  {each['id']}  {each['node']}  {each['role'] or '-'}  {health}"
        echo(one_line(row), err=True)
