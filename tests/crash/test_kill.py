"""Killed at any moment, the registry has everything that it acknowledged, and nothing by half.

`TEST_CRASH_KILLS` says how often (15 unless told, 200 by night), `TEST_CRASH_SEED` repeats a run:

    TEST_CRASH_KILLS=200 python -m pytest tests/crash/test_kill.py -s
"""

import asyncio
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.crash.http import Http
from tests.crash.ledger import Repository
from tests.crash.load import Client
from tests.crash.verify import Verifier
from tests.support.server import RunningServer

from dtr.collect.check import Checker, Finding, Severity
from dtr.database import open_database
from dtr.storage import FilesystemBlobStore

KILLS = int(os.environ.get("TEST_CRASH_KILLS", "15"))
SEED = int(os.environ.get("TEST_CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
CLIENTS = 4
GRACE_SECONDS = 4
UNTAGGED_GRACE_SECONDS = 3
ENVIRONMENT = {
    "DTR_COLLECT__INTERVAL_SECONDS": "0.1",
    "DTR_COLLECT__GRACE_SECONDS": str(GRACE_SECONDS),
    "DTR_COLLECT__UNTAGGED": "collect",
    "DTR_COLLECT__UNTAGGED_GRACE_SECONDS": str(UNTAGGED_GRACE_SECONDS),
    "DTR_COLLECT__BATCH": "20",
    "DTR_REGISTRY__MISSING_REFERENCES": "refuse",
    "DTR_STORAGE__SWEEP_INTERVAL_SECONDS": "1",
    "DTR_LOG__ACCESS": "false",
}

pytestmark = [pytest.mark.crash, pytest.mark.server]


@dataclass
class Run:
    """All cycles of one run and what they came to."""

    server: RunningServer
    generator: random.Random
    clients: list[Client]
    acknowledged: Counter[str] = field(default_factory=Counter)
    verified: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)

    def cycle(self) -> None:
        """Start, check what the last crash left, load, kill in the middle of it."""
        self.server.start()
        self.verify()
        stop = threading.Event()
        threads = [threading.Thread(target=c.run, args=(stop,)) for c in self.clients]
        for thread in threads:
            thread.start()
        time.sleep(self.generator.uniform(0.1, 1.0))
        self.server.kill()
        stop.set()
        for thread in threads:
            thread.join(60)
        for client in self.clients:
            self.acknowledged.update(client.counts)
            client.counts.clear()
            if client.problem is not None:
                raise client.problem

    def verify(self) -> None:
        """Read back everything that is owed, and compare metadata and storage."""
        http = connection(self.server)
        verifier = Verifier(http, self.generator)
        for client in self.clients:
            for repository in client.repositories:
                verifier.verify(repository)
        http.close()
        self.verified.update(verifier.counts)
        findings = asyncio.run(check(self.server.data_dir))
        self.found.update(f"{finding.severity}: {finding.what}" for finding in findings)
        assert [f for f in findings if f.severity is not Severity.GARBAGE] == []

    def report(self) -> str:
        """Return the table."""
        lines = [f"seed {SEED}, {KILLS} kills"]
        for title in ("acknowledged", "verified", "found"):
            counts: Counter[str] = getattr(self, title)
            lines += [f"  {title:13} {count:8} {what}" for what, count in sorted(counts.items())]
        return "\n".join(lines)


def connection(server: RunningServer) -> Http:
    """Return a connection as the administrator."""
    return Http(server.host, server.port, *server.admin)


async def check(directory: Path) -> list[Finding]:
    """Compare metadata and storage while the server runs, reading every blob."""
    database, store = open_database(directory / "dtr.db"), FilesystemBlobStore(directory)
    try:
        checker = Checker(database, store, verify=True, young_seconds=0)
        return [finding async for finding in checker.findings()]
    finally:
        await store.close()
        database.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Give a server that was never started, and clients for it."""
    server = RunningServer(tmp_path, options=("--workers", "2"), environment=ENVIRONMENT)
    generator = random.Random(SEED)
    clients = [
        Client(
            connection(server),
            [
                Repository(f"admin/c{number}/{name}", GRACE_SECONDS, UNTAGGED_GRACE_SECONDS)
                for name in ("one", "two")
            ],
            generator.randrange(1 << 60),
        )
        for number in range(CLIENTS)
    ]
    run = Run(server, generator, clients)
    yield run
    server.kill()
    print(run.report())


@pytest.mark.timeout(60 + 10 * KILLS)
def test_nothing_acknowledged_is_lost_when_killed(run: Run) -> None:
    """Blobs, manifests, tags, deletes and upload sessions survive SIGKILL of every process."""
    for _ in range(KILLS):
        run.cycle()
    run.server.start()
    run.verify()
    damage = [
        f
        for f in json.loads(run.server.run("fsck", "--verify", "--json"))
        if f["severity"] == "damage"
    ]
    assert damage == []
    assert run.server.stop() == 0
    assert run.acknowledged["blobs"] > 10 * KILLS
    assert run.verified["tags"] > 0
