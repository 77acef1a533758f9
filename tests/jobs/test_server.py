"""The queue in a real server, whose processes are killed and stopped."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert
from tests.support.processes import wait_until
from tests.support.server import DTR, RunningServer

from dtr.database import Database, Writer, open_database, open_postgresql
from dtr.database.schema import blobs
from dtr.jobs import Job, State, records

pytestmark = pytest.mark.server

DIGEST = "ab" * 32
KEY = f"sha256/ab/{DIGEST}.x"
SIZE = 1 << 40
"""Hashing so much takes much longer than any test."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """Give a server with a blob that takes hours to verify; of it, nothing is on the disk."""
    with RunningServer(tmp_path, options=("--workers", "1")) as server:
        path = server.data_dir / "blobs" / KEY
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(SIZE)
        yield server


@pytest.fixture
def database(server: RunningServer) -> Iterator[Database]:
    """Give the server's metadata, which knows that blob."""
    database = open_database(server.data_dir / "dtr.db")
    database.write_now(_add_blob)
    yield database
    database.close()


def _add_blob(writer: Writer) -> None:
    values = {"digest": f"sha256:{DIGEST}", "size": SIZE, "storage_key": KEY, "state": "live"}
    writer.execute(insert(blobs).values(**values, created_at=time.time()))


def run_check(server: RunningServer) -> int:
    """Have the server verify everything; return the job."""
    return int(json.loads(server.run("jobs", "run", "fsck", "--verify", "--json"))["id"])


def find(database: Database, job_id: int) -> Job:
    """Return a job that there is."""
    job = database.read_now(records.find_job, job_id)
    assert job is not None
    return job


def wait_for_attempt(database: Database, job_id: int, attempt: int) -> Job:
    """Return the job once this attempt runs."""

    def is_running() -> bool:
        job = find(database, job_id)
        return (job.state, job.attempts) == (State.RUNNING, attempt)

    wait_until(is_running, f"attempt {attempt} runs", seconds=20)
    return find(database, job_id)


def test_a_killed_runner_is_replaced_and_its_job_taken_over(
    server: RunningServer, database: Database
) -> None:
    """At once, for on the same machine it is certain that it is dead."""
    job_id = run_check(server)
    first = wait_for_attempt(database, job_id, 1)
    assert first.runner is not None
    os.kill(int(first.runner.split(":")[1]), signal.SIGKILL)
    second = wait_for_attempt(database, job_id, 2)
    assert second.runner != first.runner
    assert server.is_ready


def test_a_killed_server_goes_on_with_its_jobs(server: RunningServer, database: Database) -> None:
    """When it is started again."""
    job_id = run_check(server)
    wait_for_attempt(database, job_id, 1)
    server.kill()
    server.start()
    wait_for_attempt(database, job_id, 2)


def test_a_stopped_server_hands_its_jobs_back(server: RunningServer, database: Database) -> None:
    """Whoever is next may begin at once; no attempt is lost."""
    job_id = run_check(server)
    wait_for_attempt(database, job_id, 1)
    assert server.stop() == 0
    job = find(database, job_id)
    assert (job.state, job.runner) == (State.WAITING, None)
    assert job.most_attempts - job.attempts == 3
    server.start()
    wait_for_attempt(database, job_id, 2)


@pytest.mark.measuring
def test_a_running_job_is_cancelled_within_a_moment(
    server: RunningServer, database: Database
) -> None:
    """And whoever waits for it is told, by an exit status, too."""
    words = ("jobs", "run", "fsck", "--verify", "--wait")
    command = [*DTR, *words, "--data-dir", str(server.data_dir)]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as waiting:
        wait_until(lambda: bool(database.read_now(records.running_jobs, "fsck")), "the check runs")
        job_id = database.read_now(records.running_jobs, "fsck")[0].id
        assert "asked to stop" in server.run("jobs", "cancel", str(job_id))
        asked_at = time.monotonic()
        wait_until(lambda: find(database, job_id).state.is_end, "the job ended", seconds=10)
        assert time.monotonic() - asked_at < 4
        _, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 1
    assert f"Job {job_id} cancelled" in err


def test_collection_runs_by_its_schedule_and_is_forgotten(tmp_path: Path) -> None:
    """Five times a second, and the table stays small; jobs are counted for Prometheus."""
    environment = {"DTR_COLLECT__INTERVAL_SECONDS": "0.2", "DTR_JOBS__KEEP_ENDED": "5"}
    options = ("--workers", "1")
    with RunningServer(tmp_path, options=options, environment=environment) as server:
        database = open_database(server.data_dir / "dtr.db")

        def collections() -> list[Job]:
            return database.read_now(records.list_jobs, kind="collect")

        wait_until(lambda: len(collections()) >= 10, "ten collections")
        assert {job.schedule for job in collections()} == {"collect"}
        assert {job.state for job in collections()[1:]} == {State.SUCCEEDED}
        server.restart()  # a runner prunes when it starts, and every minute
        wait_until(lambda: len(collections()) < 10, "all but five are forgotten")
        database.close()


@pytest.fixture
def pair(postgresql_url: str, tmp_path: Path) -> Iterator[list[RunningServer]]:
    """Give two servers on one PostgreSQL and one directory of blobs, and an endless blob."""
    place = tmp_path / "shared"
    place.mkdir()
    environment = {"DTR_JOBS__HEARTBEAT_LIMIT_SECONDS": "2", "DTR_JOBS__POLL_SECONDS": "0.5"}
    servers = [
        RunningServer(
            tmp_path / name,
            options=("--workers", "1"),
            environment=environment,
            database_url=postgresql_url,
            storage_url=place.as_uri(),
        )
        for name in ("one", "two")
    ]
    with servers[0], servers[1]:
        endless = next(path for path in place.rglob("blobs") if path.is_dir()) / KEY
        endless.parent.mkdir(parents=True, exist_ok=True)
        with endless.open("wb") as file:
            file.truncate(SIZE)
        yield servers


@pytest.mark.postgresql
def test_the_jobs_of_a_lost_machine_go_on_elsewhere(
    pair: list[RunningServer], postgresql_url: str
) -> None:
    """And what runs once in the registry does so with two servers, too."""
    database = open_postgresql(postgresql_url)
    database.write_now(_add_blob)
    job_id = run_check(pair[0])
    first = wait_for_attempt(database, job_id, 1)
    lost = next(each for each in pair if str(each.pid) == parent_of(first))
    lost.kill()
    second = wait_for_attempt(database, job_id, 2)
    assert second.runner != first.runner
    schedules = [job.schedule for job in database.read_now(records.list_jobs)]
    assert schedules.count("sweep") == schedules.count("rotate-key") == 1
    database.close()


def parent_of(job: Job) -> str:
    """Return the parent of the process that runs a job."""
    assert job.runner is not None
    stat = Path(f"/proc/{job.runner.split(':')[1]}/stat").read_text()
    return stat.rpartition(")")[2].split()[1]
