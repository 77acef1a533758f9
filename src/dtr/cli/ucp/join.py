"""`ucp join`: make this machine a node of a control plane that is there."""

import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, show_json
from dtr.cli.ucp.agents import start_agent_until, start_command
from dtr.cli.ucp.checks import (
    check_address,
    check_clock,
    check_directory,
    check_etcd,
    check_ports,
    check_writable,
    note_missing_packages,
    note_running_database,
)
from dtr.cli.ucp.connection import DATA_DIRECTORY, ask, ucp_failures_as_sentences
from dtr.cli.ucp.options import (
    DataDirOption,
    HostAddressOption,
    NoCreateUserOption,
    NodeNameOption,
    NoStartOption,
    own_name,
)
from dtr.cli.ucp.system_user import create_registry_user
from dtr.server.datadir import write_atomically
from dtr.server.passwords import read_password
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.authority import (
    AuthorityError,
    checked_host_address,
    checked_name,
    fingerprint,
    make_request,
)
from dtr.ucp.bootstrap import make_directories, write_identity
from dtr.ucp.client import UcpClient, UcpError
from dtr.ucp.model import ETCD_CLIENT_PORT, ETCD_PEER_PORT, NodeIdentity, Role, TokenKind
from dtr.ucp.tokens import Token

_JOINED_SECONDS: Final = 90.0


TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="UCP_JOIN_TOKEN",
        help="Join token, from 'ucp token show' on a manager; '-' reads it from standard input."
        " Other users of the machine can read arguments: use the environment variable or a"
        " file.",
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option("--token-file", help="Read the join token from the first line of this file."),
]


def read_token(token: str | None, token_file: Path | None) -> Token:
    """Return the join token from wherever it was given; at a terminal it is asked for.

    Raises:
        TokenError: it is none.
        UcpError: there is none, and no terminal to ask at.

    """
    if token_file is not None:
        return Token.parse(read_password(token_file))
    if token == "-":  # noqa: S105 - a place, not a token
        return Token.parse(sys.stdin.readline())
    asked = "What 'ucp token show' prints on a manager"
    return Token.parse(token or ask("token", asked, hidden=True, variable="UCP_JOIN_TOKEN"))


def join_command(program: str, token: str, address: str) -> str:
    """Return what to type on a machine that joins.

    The token stands before the command: arguments are shown to every user of the machine.
    """
    return f"UCP_JOIN_TOKEN={token} {program} join {address}"


@dataclass(frozen=True, slots=True)
class JoinPlan:
    """What a machine joins as."""

    address: str
    """Of a controller."""
    token: Token
    host_address: str | None
    """None: the one from which this machine reaches the controller."""
    name: str
    role: Role
    """AUTO is WORKER with a worker's token."""
    creates_user: bool = True
    """Whether the system gets a user for the registry, if it has none."""


def join(
    address: Annotated[
        str | None,
        typer.Argument(
            metavar="HOST[:PORT]",
            help="Address of any controller.",
            envvar="UCP_URL",
            show_envvar=True,
        ),
    ] = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    host_address: HostAddressOption = None,
    node_name: NodeNameOption = None,
    role: Annotated[
        Role, typer.Option(help="auto: a manager if UCP needs one more, else a worker.")
    ] = Role.AUTO,
    data_dir: DataDirOption = DATA_DIRECTORY,
    no_start: NoStartOption = False,
    no_create_user: NoCreateUserOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make this machine a node of UCP.

    The token contains the fingerprint of UCP's authority, so another server that pretends to be UCP
    is refused before it gets anything. The private key never leaves this machine. After a failure,
    run the command again: it continues.
    """
    directory = NodeDirectory(data_dir.absolute())
    with ucp_failures_as_sentences():
        check_directory(directory)
        plan = JoinPlan(
            address=address or _address(),
            token=read_token(token, token_file),
            host_address=host_address,
            name=checked_name(node_name or own_name()),
            role=role,
            creates_user=not (no_start or no_create_user),
        )
        identity = join_node(directory, plan)
        if not no_start:
            start_joined(directory, quiet=as_json)
    if as_json:
        start = start_command(directory) if no_start else None
        show_json({**identity.model_dump(mode="json"), "start": start})
        return
    echo(f"{identity.name} is a node of UCP at {', '.join(identity.controllers)}.")
    if no_start:
        echo(f"To start it, and keep it running:\n  {start_command(directory)}")
    echo(f"To add a replica here: dtr join --ucp-node {identity.name}")


def join_node(directory: NodeDirectory, plan: JoinPlan) -> NodeIdentity:
    """Have a controller certify this machine, and write down who it is.

    Raises:
        UcpError: the machine cannot join, or the controller refuses.

    """
    role = _role(plan)
    check_writable(directory.root)
    with UcpClient(plan.address, ca_pem=pinned_authority(plan), insecure=False) as client:
        host_address = checked_host_address(plan.host_address or own_address(client.address))
        check_address(host_address)
        check_clock(client.clock())
        if role is not Role.WORKER:
            check_etcd()
            check_ports(host_address, (ETCD_CLIENT_PORT, ETCD_PEER_PORT))
        note_missing_packages()
        note_running_database()
        if plan.creates_user:
            create_registry_user({})
        make_directories(directory)
        request = make_request(_kept_key(directory))
        # Before it is sent: when the answer is lost, the same key makes the same node.
        write_atomically(directory.key, request.key_pem.encode())
        answer: Mapping[str, Any] = client.call(
            "POST",
            "/nodes",
            {
                "secret": plan.token.secret,
                "csr": request.request_pem,
                "name": plan.name,
                "host_address": host_address,
                "role": str(role),
            },
        )
    identity = NodeIdentity(
        node_id=answer["node_id"],
        name=plan.name,
        host_address=host_address,
        cluster_id=answer["cluster_id"],
        controllers=tuple(answer["controllers"]),
    )
    write_identity(directory, identity, request.key_pem, answer["certificate"], answer["ca"])
    return identity


def pinned_authority(plan: JoinPlan) -> str:
    """Return the authority's certificate, which is the one that the token names.

    Raises:
        UcpError: it is another; nothing secret has been sent.

    """
    with UcpClient(plan.address, insecure=True) as client:
        pem = client.authority()
    try:
        found = fingerprint(pem)
    except AuthorityError:
        found = ""
    if found != plan.token.ca_fingerprint:
        raise UcpError(
            f"The server at {plan.address} is not the control plane of this token.",
            "Check the address, and take the token from 'ucp token show' on that control plane. If "
            "both are right, another server intercepts the connection.",
        )
    return pem


def own_address(controller: str) -> str:
    """Return the address from which this machine reaches a controller.

    Raises:
        UcpError: it does not.

    """
    host, _, port = controller.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as connection:
            return str(connection.getsockname()[0])
    except OSError:
        raise UcpError(
            f"{controller} cannot be reached.", "Check the address and that its port is open."
        ) from None


def start_joined(directory: NodeDirectory, *, quiet: bool) -> None:
    """Start the agent and return when it has been told what to run.

    Raises:
        UcpError: it was not in time, or it ended.

    """
    if not quiet:
        echo("Starting the agent …", err=True)
    start_agent_until(
        directory.wanted.exists,
        directory,
        seconds=_JOINED_SECONDS,
        failure="The machine has joined, but its agent does not reach the control plane.",
    )


def _address() -> str:
    """Ask for a controller; here it is an argument, and no option's name helps."""
    if not sys.stdin.isatty():
        raise UcpError(
            "The address of a controller is needed, and there is no terminal to ask at.",
            "Give it as in 'ucp join 10.0.0.1', or set UCP_URL.",
        )
    return ask("ucp-url", "The UCP URL including domain and port")


def _role(plan: JoinPlan) -> Role:
    if plan.token.kind is TokenKind.MANAGER:
        return plan.role
    if plan.role is Role.MANAGER:
        raise UcpError(
            "A worker token does not make a machine a manager.",
            "Take what 'ucp token show --kind manager' prints, or promote the node later: ucp "
            "node promote.",
        )
    return Role.WORKER


def _kept_key(directory: NodeDirectory) -> str | None:
    """Return the key of a join that was cut short."""
    try:
        return directory.key.read_text()
    except OSError:
        return None
