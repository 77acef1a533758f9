"""`dtr config`."""

from typing import Annotated

import typer

from dtr.cli.context import (
    ConfigOption,
    DataDirOption,
    failures_as_sentences,
    own_replica,
    settings_of,
    sourced_settings,
    wait_for,
)
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, show, show_json
from dtr.database.migrate import pending_steps
from dtr.server.datadir import DataDirectory
from dtr.server.drivers import check_storage, open_metadata, shortage_of_room
from dtr.server.metrics import Metrics
from dtr.server.settings import Settings
from dtr.server.settings_pages import sample_config, written
from dtr.server.settings_sources import shown_value
from dtr.server.start_checks import check_start

commands = typer.Typer(no_args_is_help=True, help="Settings: check, show and explain them.")


@commands.command("check")
def check(
    connect: Annotated[
        bool,
        typer.Option(
            "--connect",
            help="Also connect to the database, and write, read and delete a file in the storage.",
        ),
    ] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Check the settings as the start of a server does, and report every problem.

    Checks settings, addresses, the data directory, certificates, password files, and the URLs of
    database and storage. A server may run meanwhile.
    """
    with failures_as_sentences():
        settings = settings_of(config or own_replica(data_dir), data_dir)
        check_start(settings, may_be_running=True)
        _check_metadata(settings, connect=connect)
        if connect and settings.storage.url:
            check_storage(settings, settings.data.directory)
        shortage = shortage_of_room(settings) if settings.data.directory.is_dir() else ""
    if shortage:
        echo(shortage)
    echo(f"The settings are valid: {settings.data.directory}, {settings.server.listen}.")


@commands.command("show")
def show_settings(
    changed: Annotated[
        bool, typer.Option("--changed", help="Only settings that are not at their default.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show the value of every setting and where it comes from; secrets are shown as ***."""
    with failures_as_sentences():
        sourced = sourced_settings(config or own_replica(data_dir), data_dir)
    found = [entry for entry in sourced.effective() if not changed or entry[0] in sourced.sources]
    if as_json:
        names = ("key", "value", "source")
        show_json(
            [
                dict(zip(names, (key, shown_value(value), source), strict=True))
                for key, value, source in found
            ]
        )
        return
    show(
        found,
        {
            "setting": lambda entry: entry[0],
            "value": lambda entry: written(entry[1]),
            "source": lambda entry: entry[2],
        },
        as_json=False,
    )


@commands.command("sample")
def sample() -> None:
    """Print a TOML file with every setting, its default and its meaning."""
    echo(sample_config())


def _check_metadata(settings: Settings, *, connect: bool) -> None:
    """Refuse metadata of another version; a database elsewhere is asked only with `connect`."""
    directory = settings.data.directory
    if not (connect if settings.database.url else DataDirectory(directory).database.exists()):
        return
    database = open_metadata(settings, directory, Metrics())
    try:
        wait_for(database, settings)
        pending_steps(database.engine)
    finally:
        database.close()
