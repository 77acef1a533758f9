"""Runners in processes of their own, which are killed, frozen and stopped at random."""

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.jobs.worker import COUNT
from tests.support.processes import ROOT, ProcessGroup, wait_until

from dtr.database import Database, EngineName
from dtr.jobs import NewJob, State, records

pytestmark = pytest.mark.server

JOBS = 150
WORKERS = 3


@pytest.fixture
def workers(
    database: Database, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[list[ProcessGroup]]:
    """Give three runners on the database, and end them."""
    is_postgresql = database.name is EngineName.POSTGRESQL
    url = request.getfixturevalue("postgresql_url") if is_postgresql else tmp_path / "dtr.db"
    command = [sys.executable, "-m", "tests.jobs.worker", url, tmp_path / "record"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    workers = [
        ProcessGroup(command, log=tmp_path / f"worker-{number}.log", environment=environment)
        for number in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    yield workers
    for worker in workers:
        worker.kill()


def test_every_job_is_done_whatever_befalls_its_runners(
    database: Database, workers: list[ProcessGroup], tmp_path: Path
) -> None:
    """And no attempt is ever run by two."""
    ids = [database.write_now(records.enqueue, NewJob(COUNT), time.time()) for _ in range(JOBS)]
    generator = random.Random(1)

    def are_done() -> bool:
        return not database.read_now(records.count_open)

    for _ in range(8):
        time.sleep(generator.uniform(0.4, 1.2))  # anything may be under way
        worker = generator.choice(workers)
        match generator.choice(("kill", "stop", "freeze")):
            case "kill":
                worker.kill()
            case "stop":
                # It may not yet have got as far as to know what to do about SIGTERM.
                assert worker.stop() in {0, -signal.SIGTERM}, worker.log_tail()
            case _:
                os.killpg(worker.pid, signal.SIGSTOP)
                time.sleep(1.6)  # longer than a runner may be silent
                os.killpg(worker.pid, signal.SIGCONT)
                continue
        worker.start()
    wait_until(are_done, "all jobs are done", seconds=60)
    for job_id in ids:
        job = database.read_now(records.find_job, job_id)
        assert job is not None
        assert job.state is State.SUCCEEDED
    lines = Counter((tmp_path / "record").read_text().splitlines())
    assert set(lines.values()) == {1}, lines.most_common(3)
    assert {int(line.split()[1]) for line in lines if line.startswith("end")} == set(ids)
    begun = sum(line.startswith("begin") for line in lines)
    print(f"{JOBS} jobs took {begun} attempts")
