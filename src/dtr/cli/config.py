"""`dtr config`."""

import typer

from dtr.cli.context import ConfigOption, DataDirOption, failures_as_sentences, settings_of
from dtr.server.settings_pages import sample_config

commands = typer.Typer(no_args_is_help=True, help="Settings: check, show and explain them.")


@commands.command("check")
def check(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Read file, environment and defaults as the server would, and report every problem."""
    with failures_as_sentences():
        settings = settings_of(config, data_dir)
    typer.echo(f"The settings are good: {settings.data.directory}, {settings.server.listen}.")


@commands.command("sample")
def sample() -> None:
    """Print a TOML file with every setting, its default and what it does."""
    typer.echo(sample_config())
