"""A registry on several machines, under load, loses one part after another: nobody notices more.

`TEST_OUTAGE_ROUNDS` (1) is how often each part is struck, and `TEST_OUTAGE_KILLS` (4) how often a
server process is killed in a round. The table of the last run is in `results/outages.md`.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.outages.load import Load
from tests.outages.report import Row
from tests.outages.stage import ACCOUNT, Stage
from tests.outages.tags import TagClients
from tests.support.network import packets_dropped
from tests.support.processes import requires, requires_root, wait_until
from tests.support.seaweed import requires_weed

pytestmark = [pytest.mark.outage, pytest.mark.timeout(900)]

ROUNDS = int(os.environ.get("TEST_OUTAGE_ROUNDS", "1"))
KILLS = int(os.environ.get("TEST_OUTAGE_KILLS", "4"))
FROZEN_SECONDS = 20.0
DROPPED_SECONDS = 10.0
GRACE_SECONDS = 2.0
SEED = random.SystemRandom().randrange(10**6)

Strike = Callable[[Stage], float]


@contextmanager
def outage() -> Iterator[list[float]]:
    """Measure how long the body takes."""
    measured: list[float] = []
    started = time.monotonic()
    yield measured
    measured.append(time.monotonic() - started)


def kill_servers(stage: Stage) -> float:
    """Kill a server with all its processes at a random moment, and start it again; some times."""
    generator = random.Random(SEED)
    longest = 0.0
    for _ in range(KILLS):
        time.sleep(generator.uniform(0.2, 1.5))
        server = generator.choice(stage.servers.servers)
        with outage() as measured:
            server.kill()
            time.sleep(generator.uniform(0, 1))
            server.start()
        longest = max(longest, *measured)
    return longest


def restart_database(stage: Stage) -> float:
    """Kill the primary and start it again, as after a crash of its machine; nobody takes over.

    It commits again when its standby follows it.
    """
    with outage() as measured:
        stage.primary.kill()
        time.sleep(3)
        stage.primary.start()
        wait_until(lambda: stage.primary.is_followed_by(stage.standby), "the standby follows")
    return measured[0]


def promote_standby(stage: Stage) -> float:
    """Stop the primary, notice it as a cluster manager would, and promote the standby."""
    with outage() as measured:
        stage.primary.stop()
        time.sleep(3)
        stage.standby.promote()
    return measured[0]


def promote_after_kill(stage: Stage) -> float:
    """Likewise, but the primary has no time to say anything to anybody."""
    with outage() as measured:
        stage.primary.kill()
        time.sleep(3)
        stage.standby.promote()
    return measured[0]


def restart_storage(stage: Stage) -> float:
    """Kill the S3 server and start it again."""
    assert stage.s3 is not None
    with outage() as measured:
        stage.s3.restart(down_seconds=2)
    return measured[0]


def freeze_database(stage: Stage) -> float:
    """Stop every process of the primary where it is: connections stay, and nobody answers."""
    with outage() as measured:
        stage.primary.freeze()
        time.sleep(FROZEN_SECONDS)
        stage.primary.thaw()
    return measured[0]


def drop_packets(stage: Stage) -> float:
    """Drop all packets from and to the primary."""
    with outage() as measured, packets_dropped(stage.primary.port):
        time.sleep(DROPPED_SECONDS)
    return measured[0]


def requirements(strike: Strike) -> None:
    """Skip what this machine cannot do."""
    requires("haproxy")
    if strike is restart_storage:
        requires_weed()
    if strike is drop_packets:
        requires("iptables")
        requires_root("iptables")


@pytest.mark.parametrize("round_number", range(ROUNDS))
@pytest.mark.parametrize(
    ("struck", "strike"),
    [
        ("a server, killed", kill_servers),
        ("the primary, killed and restarted", restart_database),
        ("the primary, stopped; the standby promoted", promote_standby),
        ("the primary, killed; the standby promoted", promote_after_kill),
        pytest.param("the S3 server, killed and restarted", restart_storage, marks=pytest.mark.s3),
        ("the primary, frozen", freeze_database),
        ("packets to the primary, dropped", drop_packets),
    ],
)
async def test_nobody_loses_anything(
    tmp_path: Path, struck: str, strike: Strike, round_number: int
) -> None:
    """No acknowledged push is lost, no push or pull fails, and tags move as on one machine.

    No request waits longer than the outage and two seconds. Unless it was a server that died in the
    middle of an answer, not even a client that tries nothing again meets an error.
    """
    requirements(strike)
    with Stage(tmp_path, is_on_s3=strike is restart_storage) as stage:
        seed = SEED + round_number
        load = Load(stage.servers.url, ACCOUNT, seed)
        tags = TagClients(stage.urls, ACCOUNT, seed)
        await load.start()
        await tags.start()
        await load.until_more(3)
        seconds = await asyncio.to_thread(strike, stage)
        await load.until_more(6)
        await tags.until_more(100)
        await tags.stop()
        await load.stop()
        lost = [line for url in stage.urls for line in await load.lost(url)]
    name = struck if ROUNDS == 1 else f"{struck} ({round_number + 1})"
    row = Row(name, seconds, load, tags, len(lost)).write()
    assert lost == []
    assert load.pulls.failures == []
    assert load.pushes.failures == []
    assert tags.problems() == [], "\n".join(tags.problems())
    for record in (load.pushes, load.pulls):
        assert strike is kill_servers or record.raw_errors == []
        assert record.longest_wait <= row.outage_seconds + GRACE_SECONDS, record.slowest
