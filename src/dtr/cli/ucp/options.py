"""What commands that make a machine a node are told about it."""

import socket
from pathlib import Path
from typing import Annotated, Final

import typer

from dtr.cli.ucp.system_user import REGISTRY_USER

_MAX_PORT: Final = 65_535

HostAddressOption = Annotated[
    str | None,
    typer.Option(
        "--host-address",
        envvar="UCP_HOST_ADDRESS",
        metavar="IP",
        help="Address at which the other machines reach this machine.",
    ),
]
NodeNameOption = Annotated[
    str | None,
    typer.Option(
        "--node-name",
        envvar="UCP_NODE_NAME",
        help="Name of this machine. [default: its host name]",
        show_default=False,
    ),
]
DataDirOption = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="UCP_DATA_DIR",
        readable=False,  # a command says itself what it lacks: in a sentence
        help="Directory with UCP's data.",
    ),
]
PortOption = Annotated[
    int,
    typer.Option(
        "--controller-port",
        envvar="UCP_CONTROLLER_PORT",
        min=1,
        max=_MAX_PORT,
        help="Port of the controllers.",
    ),
]
SanOption = Annotated[
    list[str] | None,
    typer.Option(
        "--san",
        metavar="NAME",
        help="Another name or address of UCP, for its certificate. May be repeated.",
    ),
]
NoStartOption = Annotated[
    bool,
    typer.Option(
        "--no-start", help="Only write the files, and print the command that starts the agent."
    ),
]
NoCreateUserOption = Annotated[
    bool,
    typer.Option(
        "--no-create-user",
        help=f"Do not create the system user {REGISTRY_USER!r}, as which the registry of a "
        "replica runs. By default it is created if it does not exist.",
    ),
]


def own_name() -> str:
    """Return what this machine calls itself, without its domain where that is all it adds."""
    return socket.gethostname().lower()
