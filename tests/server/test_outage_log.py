"""What the log holds after clients pulled and pushed while PostgreSQL was away."""

import asyncio
import json
import random
from collections import Counter
from contextlib import suppress
from itertools import count
from pathlib import Path

import httpx
import pytest
from tests.http.client import basic
from tests.support.postgresql import RunningPostgresql, temporary_database
from tests.support.server import ADMIN, ADMIN_PASSWORD, RunningServer

from dtr.model.digest import Digest

pytestmark = [pytest.mark.server, pytest.mark.postgresql]

AUTH = basic(ADMIN, ADMIN_PASSWORD)
ENVIRONMENT = {"DTR_SERVER__WORKERS": "2", "DTR_DATABASE__FAILOVER_WAIT_SECONDS": "1"}
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
REPOSITORY = "/v2/admin/app"
BYTES = b"hello"
LINES = (
    "GET /v2/",
    "GET /v2/_catalog",
    f"GET {REPOSITORY}/tags/list",
    f"GET {REPOSITORY}/manifests/latest",
    f"GET {REPOSITORY}/blobs/{Digest.of(BYTES)}",
    f"PUT {REPOSITORY}/manifests/latest",
    f"DELETE {REPOSITORY}/manifests/latest",
    f"POST {REPOSITORY}/blobs/uploads/",
    f"POST {REPOSITORY}/blobs/uploads/?digest={Digest.of(BYTES)}",
    f"POST {REPOSITORY}/blobs/uploads/?mount={Digest.of(b'elsewhere')}",
    "GET /auth/token?service=dtr&scope=repository:admin/app:pull,push",
    "GET /metrics",
    "GET /health",
    "GET /api/v0/meta/cluster_status",
)


async def push_and_pull(url: str, seen: Counter[int]) -> None:
    """Do what a client does, again and again, and wait for every answer."""
    headers = {"Authorization": AUTH}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
        for number in count():
            blob = json.dumps({"number": number, "by": id(client)}).encode()
            config = {"mediaType": CONFIG, "digest": str(Digest.of(blob)), "size": len(blob)}
            manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []}
            with suppress(httpx.TransportError):
                opened = await client.post(f"{REPOSITORY}/blobs/uploads/")
                answers = [opened]
                if "location" in opened.headers:
                    query = {"digest": str(Digest.of(blob))}
                    place = httpx.URL(opened.headers["location"]).copy_merge_params(query)
                    answers.append(await client.put(place, content=blob))
                answers += [
                    await client.put(
                        f"{REPOSITORY}/manifests/latest",
                        content=json.dumps(manifest).encode(),
                        headers={"Content-Type": MANIFEST},
                    ),
                    await client.get(f"{REPOSITORY}/manifests/latest"),
                    await client.get(f"{REPOSITORY}/blobs/{Digest.of(blob)}"),
                    await client.get("/v2/_catalog"),
                ]
                seen.update(answer.status_code for answer in answers)


async def give_up(host: str, port: int, chosen: random.Random) -> None:
    """Begin requests and go away: in the middle of a body, while one waits, with a reset."""
    loop = asyncio.get_running_loop()
    while True:
        line = chosen.choice(LINES)
        head = f"{line} HTTP/1.1\r\nHost: a\r\nAuthorization: {AUTH}\r\nContent-Length: 5\r\n\r\n"
        transport: asyncio.Transport | None = None
        try:
            transport, _ = await loop.create_connection(asyncio.Protocol, host, port)
            transport.write(head.encode() + BYTES[: chosen.choice((0, 2, 5))])
            await asyncio.sleep(chosen.choice((0, 0.02, 0.3, 1.2)))
            if chosen.random() < 0.5:
                transport.close()
        except OSError:
            await asyncio.sleep(0.05)
        finally:
            if transport is not None:
                transport.abort()


async def outages(postgresql: RunningPostgresql) -> None:
    """Stop it in every way: still connected and silent, killed, restarted."""
    await asyncio.sleep(1)
    for stop, go_on in (
        (postgresql.freeze, postgresql.thaw),
        (postgresql.kill, postgresql.start),
        (lambda: postgresql.stop(is_immediate=True), postgresql.start),
    ):
        await asyncio.to_thread(stop)
        await asyncio.sleep(2)
        await asyncio.to_thread(go_on)
        await asyncio.sleep(1)


async def test_clients_of_a_registry_without_postgresql_leave_no_traceback(tmp_path: Path) -> None:
    """Those that wait hear 503, those that give up hear nothing, and the log has lines of ours."""
    seen: Counter[int] = Counter()
    with (
        RunningPostgresql() as postgresql,
        temporary_database(postgresql) as url,
        RunningServer(tmp_path, database_url=url, environment=ENVIRONMENT) as server,
    ):
        waiting = [push_and_pull(server.url, seen) for _ in range(3)]
        hasty = [give_up(server.host, server.port, random.Random(seed)) for seed in range(5)]
        clients = [asyncio.create_task(each) for each in (*waiting, *hasty)]
        await outages(postgresql)
        for each in clients:
            each.cancel()
        ended = await asyncio.gather(*clients, return_exceptions=True)
        server.stop()
        log = server.log.read_text(errors="replace")
    assert [each for each in ended if not isinstance(each, asyncio.CancelledError)] == []
    assert seen[503]
    assert seen[500] == 0
    assert "Traceback" not in log
    assert "never retrieved" not in log
