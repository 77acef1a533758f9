"""How rooms add routes to the controller's HTTPS API: `/api/ucp/v0/…`, JSON both ways."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Final

from pydantic import JsonValue

from dtr.ucp.store import Store

PREFIX: Final = "/api/ucp/v0"


class Access(StrEnum):
    """Who may call a route; there is no default."""

    OPEN = auto()
    """Anybody."""
    ADMINISTRATOR = auto()
    """Who has a session token or gives name and password (basic)."""
    NODE = auto()
    """A node, by its certificate."""
    ANY_NODE_OR_ADMINISTRATOR = auto()


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request that has passed its route's access check."""

    store: Store
    caller: str
    """The administrator's name or the node's id; empty for anybody."""
    path: Mapping[str, str] = field(default_factory=dict)
    """The parts that the route's template names."""
    query: Mapping[str, str] = field(default_factory=dict)
    body: JsonValue = None
    peer_address: str = ""
    session: str = ""
    """The key of the administrator's session; empty where there is none."""
    fingerprint: str = ""
    """Of the certificate that a node has shown."""
    now: float = 0


class ApiError(Exception):
    """An answer that is not a success: `{"errors": [{"code": …, "message": …}]}`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """A method and path below `/api/ucp/v0`, such as `/nodes/{id}`, and what answers it.

    The handler returns what is sent as JSON, or raises `ApiError`; a pydantic `ValidationError` of
    the body becomes 400, an `UnavailableError` 503.
    """

    method: str
    path: str
    access: Access
    handler: Callable[[ApiRequest], Awaitable[JsonValue]]


@dataclass(frozen=True, slots=True)
class OperationKind:
    """An operation that may be asked for at `POST /operations`.

    `check` refuses (raises `ApiError`) what needs no look at the cluster: unknown arguments, wrong
    forms. It returns the arguments as they are kept.
    """

    name: str
    check: Callable[[Mapping[str, JsonValue]], dict[str, JsonValue]]
    is_exclusive: bool = True
    """Whether no other exclusive one may run beside it."""
