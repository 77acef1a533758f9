"""Whether this process takes pushes: what the metadata say, asked twice a second."""

import asyncio
from typing import Final

import structlog

from dtr.database import Database
from dtr.model.errors import RegistryError
from dtr.model.read_only import READ_ONLY_KEY, ReadOnlyMode
from dtr.registry.records.read_only import FIND_SETTING

_LOG = structlog.get_logger()
_EVERY_SECONDS: Final = 0.5


class ReadOnly:
    """Follows the registry's mode, so that a push is refused before its body is taken.

    A request that writes asks `require` when it begins and when its body has ended; what decides is
    the look that its unit of work takes (`accounts.permits`). While the metadata cannot be asked
    the last answer stands; nothing could be written then anyway.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._mode: ReadOnlyMode | None = None
        self._is_known = False

    async def require(self) -> None:
        """Return where pushes are taken.

        Raises:
            ReadOnlyError: they are not, and why.

        """
        if not self._is_known:
            await self.refresh()
        if self._mode is not None:
            raise self._mode.error

    @property
    def is_on(self) -> bool:
        """Whether only pulls are served, as the last answer was."""
        return self._mode is not None

    async def refresh(self) -> None:
        """Ask the metadata."""
        found = await self._database.lookup(FIND_SETTING, {"key": READ_ONLY_KEY})
        mode = None if found is None else ReadOnlyMode.parse(found[0])
        if mode != self._mode:
            if mode is not None:
                _LOG.warning("only pulls are served", reason=mode.reason, by=mode.by)
            else:
                _LOG.info("pushes are taken again")
        self._mode, self._is_known = mode, True

    async def follow(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            try:
                await self.refresh()
            except RegistryError as error:
                _LOG.debug("the mode is not known", error=str(error))
            await asyncio.sleep(_EVERY_SECONDS)
