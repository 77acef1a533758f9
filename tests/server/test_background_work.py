"""What runs for as long as its process: when it ends by an error, the process does, too."""

import asyncio
import re
import sys
import time
from pathlib import Path

import pytest
from tests.http.targets import InProcess
from tests.http.wire import head, say
from tests.support.processes import ProcessGroup, free_port

from dtr.server.background import BackgroundFailedError, run_beside

SOON = 60.0
# Runs a server in which one function raises, once, when a file appears.
SCRIPT = """
import asyncio, pathlib, sys
from dtr.server import background
from dtr.registry.counters import PullCounter
from dtr.server.serve import serve
from dtr.server.settings import Settings

async def fail(trigger):
    while not trigger.exists():
        await asyncio.sleep(0.05)
    trigger.unlink()
    raise RuntimeError("nobody expected this")

directory, port = pathlib.Path(sys.argv[1]), sys.argv[2]

async def run(self):
    await fail(directory / "worker")

async def listen(database, runner):
    await fail(directory / "runner")

PullCounter.run = run
background._listen = listen
settings = Settings.model_validate({
    "data": {"directory": str(directory / "data")},
    "server": {"listen": f"127.0.0.1:{port}", "workers": 1},
})
serve(settings, lambda started: None)
"""


@pytest.mark.server
def test_a_process_whose_background_work_fails_is_replaced(tmp_path: Path) -> None:
    """Of a web worker and of the job runner: the log says why, and a whole one takes its place."""
    port = free_port()
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(port)]
    server = ProcessGroup(command, log=tmp_path / "log")
    url = f"http://127.0.0.1:{port}"

    def is_answering() -> bool:
        try:
            return say(url, head("GET", "/_ping"), until=b"Healthy").status == 200
        except OSError:
            return False

    server.start()
    try:
        server.wait_until_ready(is_answering, seconds=SOON)
        for name, sentence in (
            ("worker", r"background work failed.*"),
            ("runner", r"BackgroundFailedError: job listener failed"),
        ):
            (tmp_path / name).touch()
            wait_for(tmp_path / "log", sentence)
        wait_for(tmp_path / "log", r"process ended and is started again.*job runner")
        assert "nobody expected this" in (tmp_path / "log").read_text()
        server.wait_until_ready(is_answering, seconds=SOON)
    finally:
        server.stop()


def wait_for(log: Path, sentence: str) -> None:
    """Wait until a log has a sentence."""
    deadline = time.monotonic() + SOON
    while not re.search(sentence, log.read_text()):
        assert time.monotonic() < deadline, sentence
        time.sleep(0.1)


async def test_an_application_ends_its_process_with_its_background_work(
    tmp_path: Path,
) -> None:
    """By an error; not where there was nothing to do, and not when it is closed."""
    registry = InProcess.open(tmp_path)
    application = registry.application
    ended: list[bool] = []
    failed = asyncio.Event()

    def end() -> None:
        ended.append(True)
        failed.set()

    application._end = end
    messages = iter([{"type": "lifespan.startup"}])
    closing = asyncio.Event()

    async def receive() -> dict[str, str]:
        if (message := next(messages, None)) is None:
            await closing.wait()
            return {"type": "lifespan.shutdown"}
        return message

    async def send(_: object) -> None:
        pass

    async def fail() -> None:
        raise RuntimeError("nobody expected this")

    async def leave() -> None:
        pass

    async def stay() -> None:
        await asyncio.Event().wait()

    application._background = [leave, stay, fail]
    running = asyncio.create_task(application({"type": "lifespan"}, receive, send))
    async with asyncio.timeout(SOON):
        await failed.wait()
        closing.set()
        await running
    assert ended == [True]


async def test_work_is_brought_to_its_end_before_the_process_gives_up() -> None:
    """A job runner hands its jobs back, though what woke it has failed."""
    stop = asyncio.Event()
    done = []

    async def work() -> None:
        await stop.wait()
        done.append("handed back")

    async def fail() -> None:
        raise RuntimeError("nobody expected this")

    beside = [asyncio.create_task(fail(), name="listener")]
    with pytest.raises(BackgroundFailedError, match="listener failed"):
        await run_beside(work(), beside, stop)
    assert done == ["handed back"]


async def test_work_that_ends_is_not_waited_for_by_what_runs_beside_it() -> None:
    """What never ends is cancelled, and what had nothing to do is nothing to worry about."""
    stop = asyncio.Event()

    async def leave() -> None:
        stop.set()

    forever = asyncio.create_task(asyncio.Event().wait())
    async with asyncio.timeout(SOON):
        await run_beside(stop.wait(), [forever, asyncio.create_task(leave())], stop)
    assert forever.cancelled()
