"""The short way: a machine that is no node of UCP yet becomes one, and gets a replica."""

import getpass
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import typer

from dtr.cli.output import echo
from dtr.cli.terminal import fail
from dtr.cli.ucp.connection import (
    ConnectionOptions,
    ask,
    identity_of,
    ucp_failures_as_sentences,
)
from dtr.cli.ucp.install import install as ucp_install
from dtr.cli.ucp.join import JoinPlan, join_node, read_token, start_joined
from dtr.cli.ucp.options import own_name
from dtr.server.passwords import read_password
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.authority import checked_name
from dtr.ucp.model import Role

_STANDARD_INPUT = "-"


def offers_ucp(options: ConnectionOptions) -> bool:
    """Return whether UCP shall be installed here first; asked where there seems to be none."""
    if options.url or identity_of(options.data_directory) is not None or not sys.stdin.isatty():
        return False
    return typer.confirm(
        "This machine is not a node of UCP. Install UCP on it first?", default=True, err=True
    )


def install_ucp(
    options: ConnectionOptions, host_address: str | None, *, quiet: bool
) -> ConnectionOptions:
    """Make this machine the first node of a control plane; return how to log in there."""
    username = options.username or "admin"
    password = _first_password(options)
    if not quiet:
        echo("Installing UCP on this machine.", err=True)
    # Its own words go to standard error here: standard output is the command's answer.
    with redirect_stdout(sys.stderr):
        ucp_install(
            host_address=host_address,
            admin_username=username,
            admin_password=password,
            data_dir=options.data_directory,
        )
    if password is None:
        password = read_password(options.data_directory / "initial_admin_password")
    return replace(options, username=username, password=password, password_file=None)


def join_ucp(
    options: ConnectionOptions,
    token: tuple[str | None, Path | None],
    address: str | None,
    host_address: str | None,
    *,
    quiet: bool,
) -> ConnectionOptions:
    """Make this machine a node of UCP, unless it is one; return how to get at its control plane.

    The token is what was given as such, and the file that was named.
    """
    if identity_of(options.data_directory) is not None:
        return options
    directory = NodeDirectory(options.data_directory.absolute())
    with ucp_failures_as_sentences():
        plan = JoinPlan(
            address=address or ask("ucp-url", "The UCP URL including domain and port"),
            token=read_token(*token),
            host_address=host_address,
            name=checked_name(own_name()),
            role=Role.AUTO,
        )
        identity = join_node(directory, plan)
        start_joined(directory, quiet=quiet)
    if not quiet:
        echo(f"{identity.name} is a node of UCP.", err=True)
    return replace(options, url=None)


def _first_password(options: ConnectionOptions) -> str | None:
    """Return the administrator's password that was given or is chosen; None: UCP makes one up."""
    if options.password_file is not None:
        return read_password(options.password_file)
    if options.password == _STANDARD_INPUT:
        return sys.stdin.readline().rstrip("\n")
    if options.password or not sys.stdin.isatty():
        return options.password
    password = ask("ucp-password", "A password for the administrator", hidden=True)
    if getpass.getpass("ucp-password (again): ") != password:
        fail("The two passwords differ. Run it again.")
    return password
