"""What docs/ucp.md says of commands and routes is so."""

import re
import shlex
from datetime import UTC, datetime

import pytest
import typer
from tests.support.processes import ROOT
from tests.ucp.plane import OneMember

from dtr.cli.ucp.application import application
from dtr.testing.store import MemoryStore
from dtr.ucp.api import Access
from dtr.ucp.authority import Authority
from dtr.ucp.controller.routes import ucp_routes
from dtr.ucp.controller.sessions import Administrators

PAGE = (ROOT / "docs" / "ucp.md").read_text()
CALLS = re.findall(r"^ucp .*$", PAGE, re.MULTILINE)
SAID = {
    Access.OPEN: {"anybody", "who has the join token"},
    Access.ADMINISTRATOR: {"administrator"},
    Access.NODE: {"node"},
}


@pytest.mark.parametrize("line", CALLS)
def test_every_ucp_command_is_one(line: str) -> None:
    """Its names, options and arguments are what the command line takes."""
    words = shlex.split(line)[1:]
    command, name = typer.main.get_command(application), "ucp"
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, words).close()


def test_every_route_is_in_the_table_with_who_may_call_it(authority: Authority) -> None:
    """And no other is."""
    rows = re.findall(r"^\| `([A-Z]+) (/\S+)` \| ([^|]+) \|", PAGE, re.MULTILINE)
    documented = {(method, path): who.strip() for method, path, who in rows}
    routes = ucp_routes(
        authority=authority,
        administrators=Administrators(MemoryStore()),
        members=OneMember(),
        kinds=(),
        port=1,
    )
    assert documented.keys() == {(route.method, route.path) for route in routes}
    for route in routes:
        assert documented[route.method, route.path] in SAID[route.access], route


@pytest.fixture
def authority() -> Authority:
    """Give an authority, which nothing here uses."""
    return Authority.create("test", datetime.now(UTC))
