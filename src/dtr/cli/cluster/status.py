"""`dtr status`: what an operator needs to know at night."""

import sys
import time
from typing import Annotated, Any, Final

import typer
from rich.console import RenderableType
from rich.live import Live

from dtr.cli.cluster.rendering import console, rendered
from dtr.cli.cluster.unanswered import UnansweredError, ask_for_status, fail_unanswered, shown_alone
from dtr.cli.context import ConfigOption, DataDirOption
from dtr.cli.embedded import has_own_registry, show_own_registry
from dtr.cli.output import Text
from dtr.cli.terminal import JsonOption, drawing, show_json
from dtr.cli.ucp.connection import (
    ConnectionOptions,
    client_of,
    identity_of,
    takes_connection,
    ucp_failures_as_sentences,
)
from dtr.ucp.client import UcpClient

_REFRESH_SECONDS: Final = 2.0
_PATH: Final = "/dtr/status"


@takes_connection
def status(
    options: ConnectionOptions,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Refresh every two seconds, until Ctrl-C.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with status 1 if there is a problem.")
    ] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Show the cluster: replicas, roles, lag, disks, certificates and problems.

    If no controller answers, a node shows what it knows itself, and the exit status is 1. On a
    machine without a cluster it shows the registry of --data-dir or --config.
    """
    is_node = identity_of(options.data_directory) is not None
    if options.url is None and not is_node and has_own_registry(config, data_dir):
        show_own_registry(config, data_dir, check=check, as_json=as_json)
        return
    with ucp_failures_as_sentences(), client_of(options) as client:
        if not watch:
            _once(client, options, check=check, as_json=as_json)
            return
        try:
            _watch(client, options, as_json=as_json)
        except KeyboardInterrupt:
            return


def _once(client: UcpClient, options: ConnectionOptions, *, check: bool, as_json: bool) -> None:
    try:
        document = ask_for_status(client, options, _PATH)
    except UnansweredError as error:
        fail_unanswered(error, as_json=as_json)
    if as_json:
        show_json(document)
    else:
        console().print(rendered(document))
    if check and _is_wrong(document):
        raise typer.Exit(1)


def _is_wrong(document: dict[str, Any]) -> bool:
    issues = document["rethink_system_tables"]["current_issues"]
    return bool(issues) or not document["is_installed"]


def _watch(client: UcpClient, options: ConnectionOptions, *, as_json: bool) -> None:
    """Show it every two seconds; a control plane that is away is said so and waited for."""
    if as_json or not sys.stdout.isatty():
        while True:
            if as_json:
                show_json(_document(client, options))
            else:
                console().print(_picture(client, options))
            time.sleep(_REFRESH_SECONDS)
    with Live(Text("Looking …"), console=console(), screen=True, auto_refresh=False) as live:
        while True:
            picture = _picture(client, options)
            with drawing():
                live.update(picture, refresh=True)
            time.sleep(_REFRESH_SECONDS)


def _document(client: UcpClient, options: ConnectionOptions) -> dict[str, Any]:
    try:
        return ask_for_status(client, options, _PATH)
    except UnansweredError as error:
        return error.shown()


def _picture(client: UcpClient, options: ConnectionOptions) -> RenderableType:
    try:
        return rendered(ask_for_status(client, options, _PATH))
    except UnansweredError as error:
        return shown_alone(error)
