"""Read-only mode by command: every process follows, and what deletes waits."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from tests.support.processes import wait_until
from tests.support.server import RunningServer

from dtr.collect.collector import Collector, CollectSettings
from dtr.jobs import JobContext
from dtr.jobs.model import Job
from dtr.model.read_only import ReadOnlyMode
from dtr.registry.records.read_only import set_read_only
from dtr.server.read_only import wait_until_writable
from dtr.testing.registry import RegistryState, open_state


@pytest.fixture
def state(tmp_path: Path) -> RegistryState:
    """Give a registry with its blobs in memory."""
    return open_state(tmp_path)


@pytest.mark.server
def test_every_process_follows_the_command(tmp_path: Path) -> None:
    """Before it returns; commands that delete refuse meanwhile, and `off` ends it all."""
    with RunningServer(tmp_path, environment={"DTR_SERVER__WORKERS": "2"}) as server:
        auth = server.add_user("alice", "a long enough password")

        def statuses() -> set[int]:
            # A connection each: the kernel gives them to the workers in turns.
            path = f"{server.url}/v2/alice/app/blobs/uploads/"
            return {httpx.post(path, auth=auth).status_code for _ in range(12)}

        assert statuses() == {202}
        assert "accepts pushes" in server.run("read-only", "status")
        server.run("read-only", "on", "--reason", "a move")
        assert statuses() == {503}
        assert "a move" in server.run("read-only", "status")
        shown = json.loads(server.run("status", "--json"))
        assert shown["read_only"]["reason"] == "a move"
        assert "a move" in server.run("status")
        assert httpx.get(f"{server.url}/health").json()["ReadOnly"] is True
        for refused in (("gc",), ("fsck", "--repair"), ("repo", "rm", "alice/app", "--yes")):
            with pytest.raises(RuntimeError, match=r"a move.*dtr read-only off"):
                server.run(*refused)
        server.run("gc", "--dry-run")
        server.run("read-only", "off")
        assert statuses() == {202}
        server.run("gc")
        assert json.loads(server.run("status", "--json"))["read_only"] is None


async def test_a_job_that_deletes_waits_until_the_mode_is_off(state: RegistryState) -> None:
    """It says why it waits; collection looks before each of its batches."""
    context = JobContext(Job.__new__(Job), clock=lambda: 0.0)
    await state.database.write(set_read_only, ReadOnlyMode.new("a move", 0, "root"))
    collector = Collector(
        state.database,
        state.store,
        CollectSettings(),
        pause=lambda: wait_until_writable(state.database, context),
    )
    collecting = asyncio.create_task(collector.run())
    await asyncio.to_thread(wait_until, lambda: "a move" in context._progress, "it waits")
    assert not collecting.done()
    await state.database.write(set_read_only, None)
    await asyncio.wait_for(collecting, 30)
