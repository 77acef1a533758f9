"""Whoever is an administrator no more when a request writes has it refused: routes beside `/v2`."""

import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update
from tests.http.client import Client, assert_error
from tests.http.test_rights_at_the_write import (
    WAYS,
    Meddling,
    Stage,
    database,
    disable,
    disable_and_enable,
    let_token_expire,
    remove_user,
    revoke_token,
    staged,
)

from dtr.accounts.manage import add_user
from dtr.database import Writer
from dtr.database.schema import accounts
from dtr.model.access import Door, Level
from dtr.registry.records.read_only import read_only_mode

__all__ = ["database"]

MODE = "/api/v0/meta/read_only"
BODY = json.dumps({"reason": "the storage moves"}).encode()


def demote(stage: Stage) -> None:
    """Take the administrator's rights away, and nothing else."""

    def unit(writer: Writer) -> None:
        writer.execute(update(accounts).where(accounts.c.name == stage.user).values(is_admin=False))

    stage.database.write_now(unit)


async def administrator(stage: Stage) -> tuple[Stage, Client]:
    """Give a second administrator, and a client with an access token of theirs."""
    user = f"admin-{secrets.token_hex(4)}"
    stage.database.write_now(add_user, user, "nobody's password", is_admin=True)
    token = stage.target.administration.create_token(user, Level.ADMIN, lifetime_seconds=1800)
    made = replace(stage, user=user, token=token)
    made.client = made.login()
    return made, made.client


async def test_every_route_that_writes_is_tried(
    database: Callable[[], Meddling],
    tmp_path: Path,
) -> None:
    """A new one needs a way here, or among those of repositories."""
    async with staged(database, tmp_path) as stage:
        writing = {
            (route.template, method)
            for route in stage.target.application.router.routes
            for method, endpoint in route.endpoints.items()
            if method != "GET" and endpoint.access.door is not Door.OPEN
        }
        assert writing == {*WAYS, (MODE, "PUT"), (MODE, "DELETE")}


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (demote, 403, "DENIED"),
        (disable, 401, "UNAUTHORIZED"),
        (disable_and_enable, 401, "UNAUTHORIZED"),
        (remove_user, 401, "UNAUTHORIZED"),
        (revoke_token, 401, "UNAUTHORIZED"),
        (let_token_expire, 401, "UNAUTHORIZED"),
    ],
)
async def test_an_administrator_no_more_changes_no_mode(
    database: Callable[[], Meddling],
    tmp_path: Path,
    change: Callable[[Stage], None],
    status: int,
    code: str,
) -> None:
    """Neither on nor off; without the change both succeed."""
    async with staged(database, tmp_path) as registry:
        for method in ("PUT", "DELETE"):
            stage, client = await administrator(registry)
            assert (await client.request(method, MODE, content=BODY)).status_code == 200
            before = stage.database.read_now(read_only_mode)
            opposite = "DELETE" if method == "PUT" else "PUT"
            stage.database.meddle = lambda stage=stage: change(stage)
            assert_error(await client.request(opposite, MODE, content=BODY), status, code)
            assert stage.database.read_now(read_only_mode) == before
            if change is let_token_expire:
                stage.target.clock.advance(-3600)
