"""`dtr read-only`."""

import getpass
import time
from typing import Annotated

import typer

from dtr.cli.context import ConfigOption, DataDirOption, open_registry
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, show_json, time_of
from dtr.model.read_only import ReadOnlyMode
from dtr.registry.records.read_only import SETTLE_SECONDS, read_only_mode, set_read_only

commands = typer.Typer(no_args_is_help=True, help="Read-only mode: pulls only, for maintenance.")


@commands.command("on")
def turn_on(
    reason: Annotated[
        str, typer.Option("--reason", help="Reason that clients get when they push.")
    ],
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Refuse pushes and deletions on all servers, within a second; pulls go on.

    Clients get status 503 with the reason. Jobs that delete content wait.
    """
    with open_registry(config, data_dir) as registry:
        mode = ReadOnlyMode.new(reason, registry.database.clock(), getpass.getuser())
        registry.database.write_now(set_read_only, mode)
        time.sleep(SETTLE_SECONDS)
        echo("The registry is read-only now. To end that: dtr read-only off")


@commands.command("off")
def turn_off(data_dir: DataDirOption = None, config: ConfigOption = None) -> None:
    """End the read-only mode: accept pushes and deletions again."""
    with open_registry(config, data_dir) as registry:
        registry.database.write_now(set_read_only, None)
        time.sleep(SETTLE_SECONDS)
        echo("The registry accepts pushes.")


@commands.command("status")
def status(
    as_json: JsonOption = False, data_dir: DataDirOption = None, config: ConfigOption = None
) -> None:
    """Show whether the registry is read-only, and why."""
    with open_registry(config, data_dir) as registry:
        mode = registry.database.read_now(read_only_mode)
    if as_json:
        found = {"reason": mode.reason, "since": mode.since, "by": mode.by} if mode else {}
        show_json({"read_only": mode is not None, **found})
    elif mode is None:
        echo("The registry accepts pushes.")
    else:
        since = time_of(mode.since)
        echo(f"Pulls only since {since}, turned on by {mode.by}: {mode.reason}")
