"""Failed logins in the metadata, where every process of a registry counts them."""

from typing import TYPE_CHECKING

from dtr.accounts import records
from dtr.accounts.throttle import Attempt, Counted, FailedLogins, Failures
from dtr.database import Database


class SharedFailures:
    """Counts that outlive a process. Who has logged in is gathered, and written once in a while."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, float] = {}

    async def counted(self, attempt: Attempt) -> Counted:
        """Return what is kept, as it was a moment ago."""
        parameters = {
            "pair": attempt.pair,
            "known": attempt.known,
            "address": attempt.address,
        }
        rows = await self._database.lookup_all(records.FAILURES, parameters)
        found = {row[0]: Failures(row[1], row[2]) for row in rows}
        if attempt.known in self._known:
            found[attempt.known] = Failures(0, self._known[attempt.known])
        return Counted(*(found.get(subject) for subject in attempt))

    async def failed(self, attempt: Attempt, now: float) -> None:
        """Count a failure."""
        await self._database.write(records.record_failure, attempt.pair, attempt.address, now)

    async def forgive(self, attempt: Attempt) -> None:
        """Forget the failures of a name at an address."""
        await self._database.write(records.forgive_failures, attempt.pair, attempt.address)

    def note_known(self, attempt: Attempt, now: float) -> None:
        """Note that a name has logged in from an address, for the next `write`."""
        self._known[attempt.known] = now

    async def write(self) -> None:
        """Write what was gathered."""
        known, self._known = self._known, {}
        if known:
            await self._database.write(records.note_known, known)


if TYPE_CHECKING:
    _: type[FailedLogins] = SharedFailures
