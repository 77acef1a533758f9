"""Keeps the cluster's status on the node's disk, as a controller told it last.

`dtr status` and `ucp status` show it when no controller answers any more.
"""

import asyncio
from typing import TYPE_CHECKING, Final

import structlog
from pydantic import JsonValue

from dtr.model.errors import UnavailableError
from dtr.ucp.agent.last_known import LastKnown, last_status_file
from dtr.ucp.agent.port import Component, Controllers, NodeDirectory
from dtr.ucp.api import ApiError
from dtr.ucp.model import Wanted

_PAUSE_SECONDS: Final = 5.0
_LOG = structlog.get_logger()


class LastStatus:
    """A component that runs nothing: it asks, beside the others' turns."""

    def __init__(
        self,
        directory: NodeDirectory,
        controllers: Controllers,
        *,
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        self._controllers = controllers
        self._kept = LastKnown(last_status_file(directory))
        self._pause_seconds = pause_seconds
        self._asking: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """For the log."""
        return "status"

    async def converge(self, wanted: Wanted) -> None:  # noqa: ARG002 - the same for every node
        """Have it asked for now and then."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_and_pause(), name="keep the status")

    async def report(self) -> JsonValue:
        """Tell nothing: a controller has said it."""
        return None

    async def stop(self) -> None:
        """Ask no more; what is kept stays."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask_and_pause(self) -> None:
        try:
            status = await self._controllers.call("GET", "/dtr/status")
            await asyncio.to_thread(self._kept.keep, status)
        except (ApiError, UnavailableError) as error:
            _LOG.debug("the last status stays as it is", error=str(error))
        await asyncio.sleep(self._pause_seconds)


if TYPE_CHECKING:
    _: type[Component] = LastStatus
