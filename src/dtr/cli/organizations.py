"""`dtr org`."""

from typing import Annotated

import typer

from dtr.accounts import manage
from dtr.cli.completing import organizations
from dtr.cli.context import ConfigOption, DataDirOption, open_registry
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, confirm, show

commands = typer.Typer(
    no_args_is_help=True,
    help="Organizations: namespaces that own repositories and cannot log in.",
)
NewName = Annotated[str, typer.Argument(help="The organization's name, which is its namespace.")]
Name = Annotated[str, typer.Argument(help="The organization's name.", autocompletion=organizations)]


@commands.command("create")
def create(name: NewName, data_dir: DataDirOption = None, config: ConfigOption = None) -> None:
    """Create an organization; 'dtr repo grant NAME USER LEVEL --namespace' gives access."""
    with open_registry(config, data_dir) as registry:
        registry.database.write_now(manage.add_organization, name)
        echo(f"Created the organization {name}.")


@commands.command("list")
def list_organizations(
    as_json: JsonOption = False, data_dir: DataDirOption = None, config: ConfigOption = None
) -> None:
    """List organizations."""
    with open_registry(config, data_dir) as registry:
        found = registry.database.read_now(manage.list_organizations)
    columns = {"name": lambda entry: entry[0].name, "repositories": lambda entry: entry[1]}
    show(found, columns, as_json=as_json)


@commands.command("rm")
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove an organization without repositories."""
    with open_registry(config, data_dir) as registry:
        registry.database.read_now(manage.require_organization, name)
        confirm(f"Remove the organization {name} with all grants on it?", yes=yes)
        registry.database.write_now(manage.remove_user, name)
        echo(f"Removed the organization {name}.")
