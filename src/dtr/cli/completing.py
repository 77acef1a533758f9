"""What a shell is offered where a name or a level is typed: nothing, where the registry is away."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any, TypeVar

import typer

from dtr.accounts import manage, records
from dtr.cli.context import settings_of
from dtr.database import Database, Reader
from dtr.model.access import Level
from dtr.registry import manage as repositories
from dtr.server.drivers import open_metadata
from dtr.server.metrics import Metrics

_WAIT_SECONDS = 1
T = TypeVar("T")


def levels(incomplete: str) -> list[str]:
    """Offer the levels of a grant or a token."""
    names = [str(level) for level in Level if level is not Level.NONE]
    return [name for name in names if name.startswith(incomplete)]


def users(context: typer.Context, incomplete: str) -> list[str]:
    """Offer the users."""
    return _names(context, incomplete, lambda reader: _accounts(reader, kinds={"user"}))


def organizations(context: typer.Context, incomplete: str) -> list[str]:
    """Offer the organizations."""
    return _names(context, incomplete, lambda reader: _accounts(reader, kinds={"organization"}))


def namespaces(context: typer.Context, incomplete: str) -> list[str]:
    """Offer users and organizations, each of which is a namespace."""
    return _names(context, incomplete, lambda reader: _accounts(reader, kinds=None))


def repository_names(context: typer.Context, incomplete: str) -> list[str]:
    """Offer the repositories."""
    return _names(
        context,
        incomplete,
        lambda reader: [each.name for each in repositories.list_repositories(reader, None)],
    )


def token_ids(context: typer.Context, incomplete: str) -> list[str]:
    """Offer the ids of the tokens of the user that was typed before."""
    user = str(context.params.get("user", ""))
    return _names(
        context,
        incomplete,
        lambda reader: [str(token.id) for token in manage.list_tokens(reader, user)],
    )


def _accounts(reader: Reader, kinds: set[str] | None) -> list[str]:
    found = records.list_accounts(reader)
    return [account.name for account in found if kinds is None or account.kind in kinds]


def _names(
    context: typer.Context, incomplete: str, look: Callable[[Reader], list[str]]
) -> list[str]:
    """Return what begins with `incomplete`; whatever goes wrong offers nothing, in silence."""
    try:
        with _database(context.params) as database:
            return [
                str(name) for name in database.read_now(look) if str(name).startswith(incomplete)
            ]
    except Exception:  # noqa: BLE001 - a traceback in the middle of a line that is being typed
        return []


@contextmanager
def _database(given: dict[str, Any]) -> Iterator[Database]:
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):  # noqa: PTH123
        settings = settings_of(given.get("config"), given.get("data_dir"))
        directory = settings.data.directory
        if not settings.database.url and not (directory / "dtr.db").exists():
            raise FileNotFoundError(directory)
        database = open_metadata(settings, directory, Metrics())
        try:
            database.wait_until_there(seconds=_WAIT_SECONDS)
            yield database
        finally:
            database.close()
