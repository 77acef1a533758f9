"""`dtr user`."""

from typing import Annotated

import typer

from dtr.accounts import manage, records
from dtr.accounts.passwords import hash_password
from dtr.cli.completing import users
from dtr.cli.context import ConfigOption, DataDirOption, open_registry
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, PasswordFileOption, ask_password, confirm, show

commands = typer.Typer(no_args_is_help=True, help="Users and organizations: who may log in.")
NewName = Annotated[str, typer.Argument(help="The user's name, which is also their namespace.")]
Name = Annotated[str, typer.Argument(help="The user's name.", autocompletion=users)]


@commands.command("add")
def add(
    name: NewName,
    admin: Annotated[
        bool,
        typer.Option(
            "--admin", help="Make the user an administrator. Administrators have full access."
        ),
    ] = False,
    password_file: PasswordFileOption = None,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Add a user, who can then push to NAME/REPOSITORY."""
    with open_registry(config, data_dir) as registry:
        password_hash = hash_password(ask_password(name, password_file))
        registry.database.write_now(manage.add_user, name, password_hash, is_admin=admin)
        echo(f"Added {name}.")


@commands.command("list")
def list_users(
    as_json: JsonOption = False, data_dir: DataDirOption = None, config: ConfigOption = None
) -> None:
    """List users and organizations."""
    with open_registry(config, data_dir) as registry:
        show(
            registry.database.read_now(records.list_accounts),
            {
                "name": lambda account: account.name,
                "kind": lambda account: account.kind,
                "admin": lambda account: account.is_admin,
                "active": lambda account: account.is_active,
            },
            as_json=as_json,
        )


@commands.command("passwd")
def passwd(
    name: Name,
    password_file: PasswordFileOption = None,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Change a user's password; logins with the old one are refused within a second."""
    with open_registry(config, data_dir) as registry:
        password_hash = hash_password(ask_password(name, password_file))
        registry.database.write_now(manage.set_password, name, password_hash)
        echo(f"Changed the password of {name}.")


@commands.command("disable")
def disable(name: Name, data_dir: DataDirOption = None, config: ConfigOption = None) -> None:
    """Disable a user: the user cannot log in, the repositories stay."""
    _set_active(name, data_dir, config, is_active=False)


@commands.command("enable")
def enable(name: Name, data_dir: DataDirOption = None, config: ConfigOption = None) -> None:
    """Enable a disabled user."""
    _set_active(name, data_dir, config, is_active=True)


@commands.command("rm")
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove a user without repositories."""
    with open_registry(config, data_dir) as registry:
        registry.database.read_now(manage.require_account, name)
        confirm(f"Remove {name} with all tokens and grants?", yes=yes)
        registry.database.write_now(manage.remove_user, name)
        echo(f"Removed {name}.")


def _set_active(
    name: str, data_dir: DataDirOption, config: ConfigOption, *, is_active: bool
) -> None:
    with open_registry(config, data_dir) as registry:
        registry.database.write_now(manage.set_active, name, is_active=is_active)
        echo(f"{'Enabled' if is_active else 'Disabled'} {name}.")
