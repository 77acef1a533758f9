"""`ucp token`, `ca`, `passwd`, `status` and `backup`."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from dtr.cli.cluster.unanswered import UnansweredError, ask_for_status, fail_unanswered
from dtr.cli.output import echo, one_line
from dtr.cli.terminal import JsonOption, ask_password, show, show_json, time_of
from dtr.cli.ucp.archive import refuse_terminal, write_archive
from dtr.cli.ucp.connection import (
    ConnectionOptions,
    client_of,
    connected,
    takes_connection,
    ucp_failures_as_sentences,
)
from dtr.cli.ucp.nodes import show_nodes
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.authority import expires_at, fingerprint


@takes_connection
def ca(options: ConnectionOptions, as_json: JsonOption = False) -> None:
    """Print the certificate of UCP's authority, for --ucp-ca; needs no login.

    On a node it is the node's own copy. Elsewhere it is fetched from a server that is not verified:
    compare the fingerprint, which is printed on standard error, with the one on a node.
    """
    own = NodeDirectory(options.data_directory).ca
    with ucp_failures_as_sentences():
        if options.url is None and own.is_file():
            pem = own.read_text()
        else:
            with client_of(options, trusts_anybody=True) as client:
                pem = client.authority()
        found = fingerprint(pem)
        if as_json:
            show_json({"certificate": pem, "fingerprint": found, "expires_at": expires_at(pem)})
            return
    echo(pem, nl=False)
    echo(f"SHA-256 {found}", err=True)


@takes_connection
def passwd(
    options: ConnectionOptions,
    name: Annotated[
        str | None, typer.Argument(help="Name of the administrator. [default: the one who logs in]")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="Read the new password from the first line of this file.")
    ] = None,
) -> None:
    """Change an administrator's password; all sessions of the administrator end."""
    with connected(options) as client:
        target = name or client.username
        password = ask_password(f"{target} (new)", password_file)
        path = f"/administrators/{quote(target, safe='')}/password"
        client.call("POST", path, {"password": password})
    echo(f"Changed the password of {target}.")


@takes_connection
def status(
    options: ConnectionOptions,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with status 1 if there is a problem.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the control plane, how many failures it survives, and what to do about problems.

    If no controller answers, a node shows what it knows itself, and the exit status is 1.
    """
    with ucp_failures_as_sentences(), client_of(options) as client:
        try:
            found = ask_for_status(client, options, "/status")
        except UnansweredError as error:
            fail_unanswered(error, as_json=as_json)
    if as_json:
        show_json(found)
    else:
        _show_status(found)
    if check and found["problems"]:
        raise typer.Exit(1)


def _show_status(found: dict[str, Any]) -> None:
    tolerated = found["failures_tolerated"]
    rows = [
        ("cluster", found["cluster_id"]),
        ("version", found["version"]),
        ("leader", found["leader"] or "none"),
        ("survives", f"the loss of {tolerated} more manager{'' if tolerated == 1 else 's'}"),
        ("authority", f"until {time_of(found['authority_expires_at'])}"),
        ("keys", _keys(found.get("keys", ""))),
    ]
    for name, value in rows:
        echo(f"{name:11}{one_line(str(value))}")
    echo("\nManagers")
    show(
        found["managers"],
        {
            "node": lambda each: each["node"],
            "controller": lambda each: each["controller"],
            "phase": lambda each: each["phase"],
            "etcd": _etcd,
            "version": lambda each: each.get("etcd_version"),
        },
        as_json=False,
    )
    echo("\nNodes")
    show_nodes(found["nodes"])
    problems = found["problems"]
    echo("\nNo problems." if not problems else "\nProblems")
    for problem in problems:
        echo(f"- {one_line(problem)}")
    if faults := found.get("etcd_faults"):
        echo("\nThis etcd has known vulnerabilities (docs/security.md)")
        for fault in faults:
            echo(one_line(f"- {fault['name']}: {fault['consequence']}"))


def _keys(stage: str) -> str:
    if stage in {"settled", ""}:
        return "one for each engine"
    return (
        "the nodes' own keys, also for engines" if stage == "none" else f"being renewed ({stage})"
    )


def _etcd(manager: dict[str, Any]) -> str:
    if not manager["is_answering"]:
        return "does not answer"
    return "leads" if manager.get("is_leader") else "follows"


@takes_connection
def backup(
    options: ConnectionOptions,
    output: Annotated[
        Path | None,
        typer.Option(
            help="File to create; only you can read it. [default: standard output]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a backup of the control plane to a tar file: nodes, administrators, keys.

    Everyone who has the backup can act as any machine of this UCP: protect it like private keys. It
    has no images and no metadata of the registry. 'ucp restore' restores it.
    """
    with ucp_failures_as_sentences():
        if output is None:
            refuse_terminal()
        with connected(options) as client:
            found = client.call("GET", "/backup")
        write_archive(found, output)
    if output is not None:
        count = len(found["documents"])
        echo(f"Wrote {count} documents to {output}. It holds secrets: keep it safe.", err=True)
