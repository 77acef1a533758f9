"""`ucp token`: what lets machines join."""

import re
import sys
from typing import Annotated, Any, Final

import typer
from pydantic import JsonValue

from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, fail, show, show_json, time_of
from dtr.cli.ucp.connection import ConnectionOptions, connected, takes_connection
from dtr.cli.ucp.join import join_command
from dtr.ucp.model import TokenKind
from dtr.ucp.tokens import LONGEST_LIFETIME_SECONDS

_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400, "y": 365 * 86_400}

commands = typer.Typer(no_args_is_help=True, help="Join tokens, with which machines join.")

KindOption = Annotated[
    TokenKind,
    typer.Option(
        "--kind",
        help="manager: its machines may become managers. worker: its machines are workers, "
        "until 'ucp node promote' makes one a manager.",
    ),
]


@commands.command("show")
@takes_connection
def show_token(
    options: ConnectionOptions, kind: KindOption = TokenKind.MANAGER, as_json: JsonOption = False
) -> None:
    """Print a join token; everyone who has it can join machines."""
    with connected(options) as client:
        found = client.call("GET", "/token", params={"kind": str(kind)})
        _print(found, client.address, as_json=as_json)


@commands.command("rotate")
@takes_connection
def rotate_token(
    options: ConnectionOptions,
    kind: KindOption = TokenKind.MANAGER,
    expires: Annotated[
        str, typer.Option(help="How long it is valid: 30m, 12h, 7d, at most 1y.")
    ] = "24h",
    as_json: JsonOption = False,
) -> None:
    """Make a new join token and print it; the previous one of that kind is revoked at once."""
    body: dict[str, JsonValue] = {
        "kind": str(kind),
        "lifetime_seconds": _seconds(expires),
    }
    with connected(options) as client:
        found = client.call("POST", "/token/rotate", body)
        _print(found, client.address, as_json=as_json)


@commands.command("revoke")
@takes_connection
def revoke_token(
    options: ConnectionOptions, kind: KindOption = TokenKind.MANAGER, as_json: JsonOption = False
) -> None:
    """Revoke a join token at once, without a new one; machines that have joined stay."""
    with connected(options) as client:
        found = client.call("POST", "/token/revoke", {"kind": str(kind)})
    if as_json:
        show_json(found)
    else:
        echo(f"Revoked the join token for {kind}s. It was used {_times(found['uses'])}.")


@commands.command("ls")
@takes_connection
def list_tokens(options: ConnectionOptions, as_json: JsonOption = False) -> None:
    """List the join tokens without their secrets: expiry and number of uses."""
    with connected(options) as client:
        found = client.call("GET", "/tokens")["tokens"]
    show(
        found,
        {
            "kind": lambda each: each["kind"],
            "created": lambda each: time_of(each["created_at"]),
            "expires": _end,
            "used": lambda each: each["uses"],
            "last used": lambda each: time_of(each["last_used_at"]),
        },
        as_json=as_json,
    )


def _print(found: dict[str, Any], address: str, *, as_json: bool) -> None:
    if as_json:
        show_json({**found, "join": join_command("ucp", found["token"], address)})
        return
    echo(found["token"])
    if sys.stdout.isatty():
        command = join_command("ucp", "…", address)
        used = f"Valid until {time_of(found['expires_at'])}, used {_times(found['uses'])}."
        echo(f"\n{used}\nOn the machine that is to join:\n  {command}", err=True)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([1-9][0-9]{0,5})([mhdy])", text, re.ASCII)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= LONGEST_LIFETIME_SECONDS:
        fail("--expires takes a number and m, h, d or y, such as 12h; at most 1y.")
    return seconds


def _end(token: dict[str, Any]) -> str | None:
    end = time_of(token["expires_at"])
    return f"{end} (expired)" if token["is_expired"] else end


def _times(uses: int) -> str:
    return "once" if uses == 1 else f"{uses} times"
