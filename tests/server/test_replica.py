"""What a replica with blobs on its own disk does besides serving."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.processes import wait_until
from tests.support.replicas import Replicas

from dtr.cluster.model import StorageReport
from dtr.database import Writer
from dtr.jobs import schedules
from dtr.model.errors import InvalidError
from dtr.server.drivers import Drivers, storage_options
from dtr.server.replica import STATUS_FILE, ReplicaJobs, replica_jobs
from dtr.server.settings import Settings
from dtr.storage import open_blob_store
from dtr.storage.replicated import ReplicatedBlobStore
from dtr.testing.blobs import push
from dtr.testing.registry import open_state

SETTINGS = Settings.model_validate({"storage": {"url": "replicated:"}})


@pytest.fixture
def replicas(tmp_path: Path) -> Replicas:
    """Give one machine."""
    return Replicas(tmp_path, 1)


@pytest.fixture
async def drivers(tmp_path: Path, replicas: Replicas) -> AsyncIterator[Drivers]:
    """Give the drivers of that machine's processes."""
    state = open_state(tmp_path)
    store = replicas.machines[0].open()
    yield Drivers(state.database, store)
    await store.close()
    await state.store.close()
    state.database.close()


async def test_the_status_file_is_a_report(tmp_path: Path, drivers: Drivers) -> None:
    """The node's agent reads it as what the control plane keeps."""
    await push(drivers.store, b"a blob that no metadata knows")
    jobs = replica_jobs(SETTINGS, drivers, time.time)
    assert jobs is not None
    task = asyncio.create_task(jobs.report(tmp_path))
    file = tmp_path / STATUS_FILE
    await asyncio.to_thread(wait_until, file.exists, seconds=20, what="the status file")
    task.cancel()
    report = StorageReport.model_validate(json.loads(file.read_text()))
    assert (report.blobs, report.under_copied) == (0, 0)
    assert report.capacity_bytes >= report.free_bytes > 0


async def test_jobs_carry_the_replicas_id(drivers: Drivers, replicas: Replicas) -> None:
    """So that no other replica's runner takes them."""
    own = replicas.machines[0].id
    jobs = replica_jobs(SETTINGS, drivers, time.time)
    assert jobs is not None
    names = {kind.name for kind in jobs.bodies()}
    assert names == {f"copy-blobs-{own}", f"scrub-{own}"}
    assert {schedule.kind for schedule in jobs.schedules()} == names


async def test_schedules_of_former_replicas_are_forgotten(drivers: Drivers) -> None:
    """They would be due for ever, and nobody would run them."""
    assert isinstance(drivers.store, ReplicatedBlobStore)
    jobs = ReplicaJobs(SETTINGS, drivers.database, drivers.store, time.time)
    former = [
        schedule.__class__(
            schedule.name.replace("000000000001", "00000000dead"),
            schedule.kind.replace("000000000001", "00000000dead"),
            schedule.timing,
        )
        for schedule in jobs.schedules()
    ]

    def want(writer: Writer) -> None:
        schedules.synchronise(writer, [*jobs.schedules(), *former], 0, {})

    await drivers.database.write(want)
    await jobs.forget_former()
    left = {schedule.name for schedule, _ in await drivers.database.read(schedules.list_schedules)}
    assert left == {schedule.name for schedule in jobs.schedules()}


def test_replicated_storage_needs_the_cluster(tmp_path: Path) -> None:
    """The message names what is missing."""
    with pytest.raises(InvalidError, match=r"cluster\.members_file"):
        open_blob_store("replicated:", tmp_path, storage_options(SETTINGS))
