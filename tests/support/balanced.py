"""Several real servers that share a database and a storage, with a balancer before them."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.haproxy import TRUSTED_PROXIES, RunningHaproxy
from tests.support.server import RunningServer

COUNT = 3


class BalancedServers:
    """`dtr serve`, three times, on data directories of their own, behind HAProxy.

    Any request may be answered by any of them, and the next one is by another. What only one of
    them is told is in its own of `own_environments`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        database_url: str,
        storage_url: str = "",
        environment: Mapping[str, str] | None = None,
        own_environments: Sequence[Mapping[str, str]] = (),
        count: int = COUNT,
    ) -> None:
        shared = directory / "shared-blobs"
        shared.mkdir(parents=True, exist_ok=True)
        self.servers = [
            RunningServer(
                directory / f"server-{number}",
                database_url=database_url,
                storage_url=storage_url or f"file://{shared}",
                environment={
                    "DTR_SERVER__WORKERS": "1",
                    "DTR_SERVER__TRUSTED_PROXIES": TRUSTED_PROXIES,
                    **(environment or {}),
                    **own,
                },
            )
            for number, own in enumerate(own_environments or [{}] * count, 1)
        ]
        self.balancer = RunningHaproxy(
            directory / "balancer", [server.address for server in self.servers]
        )
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """The balancer's address as a URL without a slash at its end."""
        return self.balancer.url

    def start(self) -> Self:
        """Start all of them at once, on what may be an empty database, then the balancer."""
        with self._stack as stack:
            for server in self.servers:
                stack.callback(server.stop)
            failures: list[BaseException] = []

            def start(server: RunningServer) -> None:
                try:
                    server.start()
                except (RuntimeError, TimeoutError) as error:
                    failures.append(error)

            threads = [threading.Thread(target=start, args=[each]) for each in self.servers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if failures:
                raise failures[0]
            stack.enter_context(self.balancer)
            self._stack = stack.pop_all()
        return self

    def stop(self) -> None:
        """Stop the balancer and every server."""
        self._stack.close()

    def kill(self) -> None:
        """Kill every server; nobody will ask them again."""
        for server in self.servers:
            server.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
