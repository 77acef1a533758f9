"""Everything that an outage may strike, running: PostgreSQL with a standby, S3, three servers."""

import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.balanced import BalancedServers
from tests.support.postgresql import RunningPostgresql
from tests.support.seaweed import RunningS3

ACCOUNT = ("alice", "alice's long enough password")
ENVIRONMENT = {"DTR_LOG__ACCESS": "false"}
POSTGRESQL = {
    # How soon a standby follows again: commits wait for it. The default is five seconds.
    "wal_retrieve_retry_interval": "500ms",
    "wal_receiver_timeout": "5s",
    "wal_sender_timeout": "5s",
}


@dataclass
class Stage:
    """A registry as an operator would build it for machines that may fail."""

    directory: Path
    is_on_s3: bool = False

    def start(self) -> Self:
        """Start everything and make the account."""
        with ExitStack() as stack:
            self.primary = stack.enter_context(
                RunningPostgresql(is_durable=True, settings=POSTGRESQL)
            )
            database = self.primary.create_database().rpartition("/")[2]
            self.standby = stack.enter_context(self.primary.standby())
            self.s3 = None
            if self.is_on_s3:
                self.s3 = stack.enter_context(RunningS3(self.directory / "s3"))
            storage = self.s3.url_of(f"outage-{uuid.uuid4().hex[:6]}") if self.s3 else ""
            self.servers = stack.enter_context(
                BalancedServers(
                    self.directory,
                    database_url=self.primary.url_of(database, self.standby),
                    storage_url=storage,
                    environment={**ENVIRONMENT, **(self.s3.environment if self.s3 else {})},
                )
            )
            self.servers.servers[0].add_user(*ACCOUNT)
            self._stack = stack.pop_all()
        return self

    @property
    def urls(self) -> list[str]:
        """The addresses of the servers themselves."""
        return [server.url for server in self.servers.servers]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.servers.kill()
        self._stack.close()
