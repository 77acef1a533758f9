"""A database that commits and does not say so: every unit of work meets a lost answer once."""

from typing import Any

from dtr.database.postgresql import PostgresqlDatabase
from dtr.database.postgresql.attempts import Attempts
from dtr.database.postgresql.errors import UnknownOutcomeError


class ForgetfulDatabase(PostgresqlDatabase):
    """PostgreSQL, whose first commit of each unit takes place while its answer is lost.

    What a failover does to the few units that are just then under way, this does to all of them.
    `lost` counts the answers.
    """

    lost = 0

    def _write_once(self, body: Any, attempts: Attempts, *arguments: Any) -> Any:
        result = super()._write_once(body, attempts, *arguments)
        if not attempts.is_outcome_unknown:
            self.lost += 1
            raise UnknownOutcomeError("the answer was lost on purpose")
        return result
