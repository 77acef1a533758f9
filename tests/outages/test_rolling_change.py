"""A new version takes over from an old one, server by server, and nobody notices."""

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.outages.load import Load
from tests.outages.next_version import HEAD, NEEDED, make_next_version
from tests.support.haproxy import TRUSTED_PROXIES, RunningHaproxy
from tests.support.postgresql import RunningPostgresql
from tests.support.processes import requires
from tests.support.server import RunningServer

pytestmark = [pytest.mark.outage, pytest.mark.postgresql]

ACCOUNT = ("alice", "alice's long enough password")
MORE = 4


async def migrated(server: RunningServer, *options: str) -> tuple[list[str], list[str]]:
    """Run `dtr migrate` of the server's version; give what it applied and what is left."""
    printed = await asyncio.to_thread(server.run, "migrate", "--json", *options)
    document: Any = json.loads(printed)
    applied, pending = document["applied"], document["pending"]
    return [step["revision"] for step in applied], [step["revision"] for step in pending]


async def test_servers_are_replaced_under_load(tmp_path: Path) -> None:
    """Old and new ones serve side by side between the steps; no push and no pull fails."""
    requires("haproxy")
    package = make_next_version(tmp_path / "next-version")
    with ExitStack() as stack:
        postgresql = stack.enter_context(RunningPostgresql())
        url = postgresql.create_database()
        blobs = tmp_path / "blobs"
        blobs.mkdir()

        def server(name: str, **environment: str) -> RunningServer:
            made = RunningServer(
                tmp_path / name,
                database_url=url,
                storage_url=f"file://{blobs}",
                environment={
                    "DTR_SERVER__WORKERS": "1",
                    "DTR_SERVER__TRUSTED_PROXIES": TRUSTED_PROXIES,
                    "DTR_LOG__ACCESS": "false",
                    **environment,
                },
            )
            stack.callback(made.stop)
            return made

        old = [server(f"old-{number}") for number in (1, 2)]
        new = [server(f"new-{number}", PYTHONPATH=str(package)) for number in (1, 2)]
        for each in old:
            each.start()
        old[0].add_user(*ACCOUNT)
        addresses = [each.address for each in (*old, *new)]
        balancer = stack.enter_context(RunningHaproxy(tmp_path / "balancer", addresses))
        load = Load(balancer.url, ACCOUNT, 1)
        await load.start()

        assert await migrated(new[0], "--dry-run") == ([NEEDED], [HEAD])
        assert await migrated(new[0]) == ([NEEDED], [HEAD])
        await load.until_more(MORE)
        await asyncio.to_thread(new[0].start)
        await load.until_more(MORE)
        with pytest.raises(RuntimeError, match="Older servers are connected"):
            await migrated(new[0], "--after")
        assert await asyncio.to_thread(old[0].stop) == 0
        await asyncio.to_thread(new[1].start)
        await load.until_more(MORE)
        assert await asyncio.to_thread(old[1].stop) == 0
        await load.until_more(MORE)
        assert await migrated(new[0], "--after") == ([HEAD], [])
        await load.until_more(MORE)
        await load.stop()
        lost = [line for each in new for line in await load.lost(each.url)]
        with pytest.raises(RuntimeError, match="use a newer version"):
            old[0].start()
    print(f"rolling change: {load.pushes.done} pushes, {load.pulls.done} pulls")
    assert (load.pushes.failures, load.pulls.failures, lost) == ([], [], [])
    assert (load.pushes.raw_errors, load.pulls.raw_errors) == ([], [])
