"""How administrators have the registry serve pulls only, and jobs wait for that to end."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from dtr.accounts.gate import Gate
from dtr.asgi import Endpoint, Request, Response, Route
from dtr.database import Database
from dtr.jobs import JobContext
from dtr.model.access import ADMINISTRATOR
from dtr.model.documents import JsonInvalidError, load_json
from dtr.model.errors import InvalidError
from dtr.model.read_only import ReadOnlyMode
from dtr.registry.read_only import ReadOnly
from dtr.registry.records.read_only import SETTLE_SECONDS, read_only_mode, set_read_only

_PATH: Final = "/api/v0/meta/read_only"
_BODY_BYTES: Final = 16384
_LOOK_SECONDS: Final = 1.0
_SETTLE_SECONDS = SETTLE_SECONDS


class ReadOnlyRoutes:
    """GET, PUT and DELETE of the mode; PUT takes `{"reason": "..."}`."""

    def __init__(
        self, database: Database, gate: Gate, read_only: ReadOnly, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._gate = gate
        self._read_only = read_only
        self._clock = clock

    def routes(self) -> list[Route]:
        """Return the route, which only administrators pass."""
        endpoints = {
            "GET": Endpoint(self.show, ADMINISTRATOR),
            "PUT": Endpoint(self.turn_on, ADMINISTRATOR),
            "DELETE": Endpoint(self.turn_off, ADMINISTRATOR),
        }
        return [Route(_PATH, endpoints)]

    async def show(self, _request: Request) -> Response:
        """Answer whether only pulls are served, and since when, why and by whom."""
        return _shown(await self._database.read(read_only_mode))

    async def turn_on(self, request: Request) -> Response:
        """Serve pulls only, on all servers when this answers; another reason replaces the last."""
        mode = ReadOnlyMode.new(
            _reason(await request.content(limit=_BODY_BYTES)), self._clock(), request.principal.name
        )
        await self._gate.write(set_read_only, request, mode)
        await self._settle()
        return _shown(mode)

    async def turn_off(self, request: Request) -> Response:
        """Take pushes again; also where they were taken all the time."""
        await self._gate.write(set_read_only, request, None)
        await self._settle()
        return _shown(None)

    async def _settle(self) -> None:
        """Return when the mode holds in every process."""
        await self._read_only.refresh()
        await asyncio.sleep(_SETTLE_SECONDS)


async def wait_until_writable(database: Database, context: JobContext) -> None:
    """Return when the registry is not read-only; a job that deletes waits for that."""
    while (mode := await database.read(read_only_mode)) is not None:
        context.progress(f"waiting: the registry is read-only ({mode.reason})")
        await asyncio.sleep(_LOOK_SECONDS)


def _reason(body: bytes) -> str:
    try:
        document = load_json(body)
    except JsonInvalidError:
        document = None
    reason = document.get("reason") if isinstance(document, dict) else None
    if not isinstance(reason, str):
        raise InvalidError('the body must be a JSON object with a "reason"')
    return reason


def _shown(mode: ReadOnlyMode | None) -> Response:
    return Response.json({"read_only": mode is not None, **(asdict(mode) if mode else {})})
