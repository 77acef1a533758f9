"""`ucp install` and `ucp restore`: the first machine of a control plane."""

import getpass
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from dtr.accounts.passwords import hash_password, new_password
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, show_json
from dtr.cli.ucp.agents import start_agent_until, start_command
from dtr.cli.ucp.archive import read_archive
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
from dtr.cli.ucp.connection import (
    DATA_DIRECTORY,
    ask,
    refuse_argument,
    ucp_failures_as_sentences,
)
from dtr.cli.ucp.join import join_command
from dtr.cli.ucp.options import (
    DataDirOption,
    HostAddressOption,
    NoCreateUserOption,
    NodeNameOption,
    NoStartOption,
    PortOption,
    SanOption,
    own_name,
)
from dtr.cli.ucp.system_user import create_registry_user
from dtr.model.names import parse_account_name
from dtr.server.datadir import write_atomically
from dtr.server.passwords import read_password
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.authority import checked_host_address, checked_name
from dtr.ucp.bootstrap import Begun, FirstNode, begin, begin_again
from dtr.ucp.client import UcpClient, UcpError
from dtr.ucp.model import CONTROLLER_PORT, ETCD_CLIENT_PORT, ETCD_PEER_PORT, Administrator

_READY_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class FirstPassword:
    """The first administrator's password; `file` only where it was made up."""

    hash: str
    file: Path | None


def install(
    host_address: HostAddressOption = None,
    node_name: NodeNameOption = None,
    admin_username: Annotated[
        str, typer.Option(envvar="UCP_ADMIN_USER", help="Name of the first administrator.")
    ] = "admin",
    admin_password: Annotated[
        str | None,
        typer.Option(
            "--admin-password",
            envvar="UCP_ADMIN_PASSWORD",
            metavar="-",
            callback=refuse_argument,
            help="Password of the first administrator: only '-', which reads it from standard "
            "input. A terminal asks for it. Without a terminal a password is generated and"
            " written to a file in the data directory.",
        ),
    ] = None,
    admin_password_file: Annotated[
        Path | None,
        typer.Option(help="Read the administrator password from the first line of this file."),
    ] = None,
    controller_port: PortOption = CONTROLLER_PORT,
    san: SanOption = None,
    data_dir: DataDirOption = DATA_DIRECTORY,
    no_start: NoStartOption = False,
    no_create_user: NoCreateUserOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make this machine the first one of a new control plane.

    It becomes UCP's first manager, with the certificate authority, etcd, a controller and the
    agent. The command prints the line for the other machines. With three managers the control plane
    survives the loss of any one.
    """
    directory = NodeDirectory(data_dir.absolute())
    with ucp_failures_as_sentences():
        check_directory(directory)
        first = _first_node(host_address, node_name, controller_port, san or ())
        _check_machine(first)
        check_writable(directory.root)
        name = parse_account_name(admin_username)
        password = _first_password(directory, admin_password, admin_password_file)
        if not (no_start or no_create_user):
            create_registry_user(first.users)
        administrator = Administrator(
            name=name, password_hash=password.hash, changed_at=time.time()
        )
        begun = begin(directory, first, administrator, time.time())
        if not no_start:
            start_and_wait(directory, begun, quiet=as_json)
    _show(directory, begun, name, password, no_start=no_start, as_json=as_json)


def restore(
    host_address: HostAddressOption = None,
    node_name: NodeNameOption = None,
    backup: Annotated[
        Path | None,
        typer.Option(
            "--input", help="File with the backup. [default: standard input]", show_default=False
        ),
    ] = None,
    controller_port: PortOption = CONTROLLER_PORT,
    san: SanOption = None,
    data_dir: DataDirOption = DATA_DIRECTORY,
    no_start: NoStartOption = False,
    no_create_user: NoCreateUserOption = False,
    as_json: JsonOption = False,
) -> None:
    """Restore a lost control plane from a backup of 'ucp backup'.

    Do this only if the majority of the managers is lost for good. Two control planes at the same
    time would send conflicting orders to the machines. Run it on a fresh machine. Authority,
    administrators and nodes are restored; join tokens are new. If the backup has a node with this
    machine's name, this machine takes its place. The other machines reconnect by themselves if this
    machine has an address that they know. If not, join them again.
    """
    directory = NodeDirectory(data_dir.absolute())
    with ucp_failures_as_sentences():
        check_directory(directory)
        documents = read_archive(backup)
        first = _first_node(host_address, node_name, controller_port, san or ())
        _check_machine(first)
        check_writable(directory.root)
        if not (no_start or no_create_user):
            create_registry_user(first.users)
        begun = begin_again(directory, first, documents, time.time())
        if not no_start:
            start_and_wait(directory, begun, quiet=as_json)
    if as_json:
        show_json(_told(directory, begun, no_start=no_start))
        return
    echo(f"UCP is {'prepared' if no_start else 'back'} at {begun.identity.controllers[0]}")
    if no_start:
        echo(f"Start it: {start_command(directory)}")
    echo("To check it: ucp status, ucp node ls")


def start_and_wait(directory: NodeDirectory, begun: Begun, *, quiet: bool) -> None:
    """Start the agent and return when the controller answers.

    Raises:
        UcpError: it does not in two minutes, or the agent ended.

    """
    if not quiet:
        echo("Starting the agent, etcd and the controller …", err=True)
    with UcpClient(begun.identity.controllers[0], ca_pem=begun.ca_pem) as client:
        start_agent_until(
            client.is_healthy,
            directory,
            seconds=_READY_SECONDS,
            failure="The controller does not answer.",
        )


def _first_node(
    host_address: str | None, node_name: str | None, port: int, names: Sequence[str]
) -> FirstNode:
    address = host_address or ask(
        "host-address",
        "The address of this machine at which the others reach it",
        variable="UCP_HOST_ADDRESS",
    )
    return FirstNode(
        name=checked_name(node_name or own_name()),
        host_address=checked_host_address(address),
        controller_port=port,
        more_names=tuple(checked_name(name) for name in names),
    )


def _check_machine(first: FirstNode) -> None:
    check_address(first.host_address)
    check_ports(first.host_address, (first.controller_port, ETCD_CLIENT_PORT, ETCD_PEER_PORT))
    check_etcd()
    check_clock()
    note_missing_packages()
    note_running_database()


def _first_password(
    directory: NodeDirectory, given: str | None, password_file: Path | None
) -> FirstPassword:
    """Return the first password: given, asked for at a terminal, or made up and kept in a file."""
    if password_file is not None:
        return FirstPassword(hash_password(read_password(password_file)), None)
    if given == "-":
        given = sys.stdin.readline().rstrip("\n")
    if given is not None:
        return FirstPassword(hash_password(given), None)
    if sys.stdin.isatty():
        password = ask("admin-password", hidden=True)
        if getpass.getpass("admin-password (again): ") != password:
            raise UcpError("The two passwords differ.", "Run it again.")
        return FirstPassword(hash_password(password), None)
    password = new_password()
    path = directory.root / "initial_admin_password"
    write_atomically(path, f"{password}\n".encode())
    return FirstPassword(hash_password(password), path)


def _told(directory: NodeDirectory, begun: Begun, *, no_start: bool) -> dict[str, object]:
    address = begun.identity.controllers[0]
    return {
        "node": begun.identity.name,
        "node_id": begun.identity.node_id,
        "cluster_id": begun.identity.cluster_id,
        "address": address,
        "url": f"https://{address}",
        "token": begun.token,
        "worker_token": begun.worker_token,
        "join": join_command("ucp", begun.token, address),
        "start": start_command(directory) if no_start else None,
    }


def _show(
    directory: NodeDirectory,
    begun: Begun,
    administrator: str,
    password: FirstPassword,
    *,
    no_start: bool,
    as_json: bool,
) -> None:
    told = _told(directory, begun, no_start=no_start)
    told |= {"administrator": administrator, "password_file": password.file}
    if as_json:
        show_json(told)
        return
    where = "the one that you gave" if password.file is None else f"in {password.file}"
    name = begun.identity.name
    echo(f"UCP {'is prepared for' if no_start else 'runs at'} {told['url']}")
    echo(f"\n  Administrator  {administrator}\n  Password       {where}")
    if no_start:
        echo(f"\nTo start it, and keep it running:\n  {told['start']}")
    echo(
        f"\nOn each further machine (two more, and UCP survives the loss of any one):\n"
        f"  {told['join']}\n"
        "The token is valid for 24 hours. To make another, or one for workers: ucp token rotate\n"
        f"\nThen a registry, from any of them:\n"
        f"  dtr install --ucp-node {name}\n"
        f"  dtr join --ucp-node NODE\n"
    )
