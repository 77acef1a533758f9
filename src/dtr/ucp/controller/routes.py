"""All routes of UCP itself; other rooms add theirs."""

import time
from collections.abc import Callable, Sequence

from dtr.ucp.api import ApiRoute, OperationKind
from dtr.ucp.authority import Authority
from dtr.ucp.controller.administration import Administration
from dtr.ucp.controller.agents import Agents
from dtr.ucp.controller.joining import Joining
from dtr.ucp.controller.keeping import backup_routes
from dtr.ucp.controller.nodes import node_routes
from dtr.ucp.controller.operations import Operations
from dtr.ucp.controller.sessions import Administrators
from dtr.ucp.controller.status import Members, StatusRoutes
from dtr.ucp.controller.tokens import token_routes


def ucp_routes(
    *,
    authority: Authority,
    administrators: Administrators,
    members: Members,
    kinds: Sequence[OperationKind],
    port: int,
    is_time_agreed: Callable[[], bool] = lambda: True,
    monotonic: Callable[[], float] = time.monotonic,
) -> list[ApiRoute]:
    """Return the table."""
    return [
        *Administration(administrators).routes(),
        *token_routes(),
        *Joining(authority, port, monotonic).routes(),
        *node_routes(),
        *Agents(authority, is_time_agreed, monotonic).routes(),
        *Operations(kinds).routes(),
        *StatusRoutes(members).routes(),
        *backup_routes(),
    ]
