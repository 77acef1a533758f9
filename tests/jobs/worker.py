"""A process that runs jobs until it is told to stop: `python -m tests.jobs.worker URL RECORD`.

Each attempt appends a line to RECORD when it begins, and one when it has ended well.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from dtr.database import Database, open_database, open_postgresql
from dtr.jobs import JobContext, JobKind, Runner, RunnerSettings

COUNT = JobKind("count", "Counts to ten, slowly.", most_at_once=4, most_attempts=1000)
SETTINGS = RunnerSettings(
    slots=3, poll_seconds=0.1, heartbeat_limit_seconds=1, moment_seconds=0.1, keep_ended=1000
)


def open_url(url: str) -> Database:
    """Open the metadata that `url`, or the path of an SQLite file, names."""
    return open_postgresql(url) if url.startswith("postgresql") else open_database(Path(url))


async def run(url: str, record: str) -> None:
    """Run jobs until SIGTERM."""
    descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def count(context: JobContext) -> None:
        job = context.job
        os.write(descriptor, f"begin {job.id} {job.attempts}\n".encode())
        for number in range(10):
            context.progress(f"{number} of 10")
            await asyncio.sleep(0.02)
        os.write(descriptor, f"end {job.id} {job.attempts}\n".encode())

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    database = open_url(url)
    await Runner(database, {COUNT: count}, settings=SETTINGS).run(stop)
    database.close()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2]))
