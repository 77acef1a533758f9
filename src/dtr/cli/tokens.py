"""`dtr token`."""

import re
from typing import Annotated

import typer

from dtr.accounts import manage
from dtr.accounts.passwords import new_token
from dtr.cli.completing import levels, token_ids, users
from dtr.cli.context import ConfigOption, DataDirOption, open_registry
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, fail, moment, show, show_json, time_of
from dtr.model.access import Level

commands = typer.Typer(no_args_is_help=True, help="Access tokens: passwords for programs.")
User = Annotated[str, typer.Argument(help="The user that the token is for.", autocompletion=users)]
_UNITS = {"m": 60, "h": 3600, "d": 86400, "y": 365 * 86400}
_LONGEST_SECONDS = 100 * _UNITS["y"]


@commands.command("create")
def create(
    user: User,
    label: Annotated[str, typer.Option(help="Note on the purpose of the token.")] = "",
    level: Annotated[
        str,
        typer.Option(
            help="Its maximum level: read-only, read-write or admin.",
            autocompletion=levels,
        ),
    ] = "read-write",
    expires: Annotated[
        str | None,
        typer.Option(help="How long it is valid: 12h, 90d, 1y. Default: the maximum."),
    ] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Create an access token and show it once; use it as the password."""
    lifetime = None if expires is None else _seconds(expires)
    try:
        ceiling = Level.parse(level)
    except ValueError as error:
        fail(str(error))
    secret = new_token()
    with open_registry(config, data_dir) as registry:
        token = registry.database.write_now(
            manage.create_token,
            user,
            secret,
            label=label,
            level=ceiling,
            lifetime_seconds=_within(registry.settings.auth.access_token_max_seconds, lifetime),
        )
    if as_json:
        show_json(
            {"id": token.id, "user": user, "token": secret, "expires": moment(token.expires_at)}
        )
    else:
        # On standard output is the secret alone, so that $(dtr token create ...) is it.
        ends = time_of(token.expires_at) or "it does not expire"
        echo(
            f"Token {token.id} of {user}, {token.level}, expires: {ends}. It is shown this once. "
            f"To revoke it: dtr token revoke {user} {token.id}",
            err=True,
        )
        echo(secret)


@commands.command("list")
def list_tokens(
    user: User,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """List a user's access tokens, without the secrets, which are not stored."""
    with open_registry(config, data_dir) as registry:
        tokens = registry.database.read_now(manage.list_tokens, user)
    show(
        tokens,
        {
            "id": lambda token: token.id,
            "label": lambda token: token.label,
            "level": lambda token: str(token.level),
            "created": lambda token: moment(token.created_at),
            "expires": lambda token: moment(token.expires_at),
            "last used": lambda token: moment(token.last_used_at),
        },
        as_json=as_json,
    )


@commands.command("revoke")
def revoke(
    user: User,
    token_id: Annotated[
        int | None, typer.Argument(help="The token's id.", autocompletion=token_ids)
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Revoke all tokens of the user, and all logins.")
    ] = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Revoke an access token; clients that use it are refused within a second."""
    if (token_id is None) is not every:
        fail("Name a token's id, or pass --all.")
    with open_registry(config, data_dir) as registry:
        count = registry.database.write_now(manage.revoke_token, user, token_id)
        echo(f"Revoked {count} token{'' if count == 1 else 's'} of {user}.")


def _within(most_seconds: int, wanted: float | None) -> float | None:
    """Return how long a token lives, where at most so long is allowed; 0 allows no end."""
    if not most_seconds:
        return wanted
    if wanted is not None and wanted > most_seconds:
        fail(
            f"A token can be valid for at most {most_seconds / _UNITS['d']:g} days: "
            "auth.access_token_max_seconds."
        )
    return wanted or most_seconds


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,6})([mhdy])", text)
    if match is None:
        fail("The option --expires takes a number and m, h, d or y, such as 90d.")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds == 0:
        fail("The token would have expired already: give --expires a longer time, such as 90d.")
    if seconds > _LONGEST_SECONDS:
        fail("The option --expires takes at most 100y.")
    return seconds
