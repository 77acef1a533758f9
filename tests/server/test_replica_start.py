"""A replica that is started while no primary answers: it serves pulls, or says why it cannot."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from tests.support.postgresql import PASSWORD, USER, RunningPostgresql
from tests.support.server import RunningServer

from dtr.model.members import Member, Members
from dtr.server.datadir import write_atomically

pytestmark = [pytest.mark.postgresql, pytest.mark.server, pytest.mark.outage]

ONE, TWO = "1" * 12, "2" * 12
READ_ONLY = "metadata: no primary answers; pulls go on, pushes wait"
BLOB = b"what was pushed before"
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"


@pytest.fixture
def pair() -> Iterator[tuple[RunningPostgresql, RunningPostgresql]]:
    """Give a primary and the standby that its commits wait for."""
    with ExitStack() as stack:
        primary = stack.enter_context(RunningPostgresql(is_durable=True))
        yield primary, stack.enter_context(primary.standby())


def replica(
    place: Path,
    pair: tuple[RunningPostgresql, RunningPostgresql],
    failover_wait_seconds: int,
    own_id: str = TWO,
) -> RunningServer:
    """Give the registry of a replica, whose own database is the standby; it is not started."""
    members = (
        Member(ONE, "node-1", "127.0.0.1", pair[0].port),
        Member(TWO, "node-2", "127.0.0.1", pair[1].port),
    )
    write_atomically(place / "members.json", Members(own_id, members).render().encode())
    write_atomically(place / "password", f"{PASSWORD}\n".encode())
    name = pair[0].create_database().rpartition("/")[2]
    return RunningServer(
        place,
        options=("--workers", "1"),
        environment={
            "DTR_DATABASE__URL": f"postgresql://{USER}@/{name}",
            "DTR_DATABASE__PASSWORD_FILE": str(place / "password"),
            "DTR_DATABASE__FAILOVER_WAIT_SECONDS": str(failover_wait_seconds),
            "DTR_CLUSTER__MEMBERS_FILE": str(place / "members.json"),
        },
    )


def push(client: httpx.Client, tag: str) -> int:
    """Push a blob and a manifest with it; give the status of the last answer."""
    uploads = "/v2/admin/app/blobs/uploads/"
    answer = client.post(uploads, params={"digest": DIGEST}, content=BLOB)
    if answer.status_code != httpx.codes.CREATED:
        return answer.status_code
    media_type = "application/vnd.oci.image.manifest.v1+json"
    described = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "size": len(BLOB),
        "digest": DIGEST,
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": described,
        "layers": [],
    }
    return client.put(
        f"/v2/admin/app/manifests/{tag}",
        content=json.dumps(manifest),
        headers={"Content-Type": media_type},
    ).status_code


def test_a_replica_comes_up_read_only_from_its_own_standby_and_is_whole_with_a_primary(
    tmp_path: Path, pair: tuple[RunningPostgresql, RunningPostgresql]
) -> None:
    """Pulls by tag and of blobs with a login; health says what is the matter and stays 200."""
    primary, standby = pair
    with replica(tmp_path, pair, 30) as server:
        client = httpx.Client(base_url=server.url, auth=server.admin, trust_env=False, timeout=60)
        with client:
            assert push(client, "before") == httpx.codes.CREATED
            server.stop()
            primary.kill()
            started = time.monotonic()
            server.start(seconds=60)
            assert time.monotonic() - started < 30
            assert "pushes wait" in server.log.read_text()
            pulled = client.get("/v2/admin/app/manifests/before")
            assert pulled.status_code == httpx.codes.OK
            assert "Warning" in pulled.headers
            assert client.get(f"/v2/admin/app/blobs/{DIGEST}").content == BLOB
            assert client.get("/health").json() == {"Error": READ_ONLY, "Healthy": True}
            standby.promote()
            assert push(client, "after") == httpx.codes.CREATED


def test_a_replica_starts_beside_a_primary_that_can_commit_nothing(
    tmp_path: Path, pair: tuple[RunningPostgresql, RunningPostgresql]
) -> None:
    """The standbys that it waits for are gone: a start writes nothing, and pulls are answered."""
    _, standby = pair
    with replica(tmp_path, pair, 30, own_id=ONE) as server:
        client = httpx.Client(base_url=server.url, auth=server.admin, trust_env=False, timeout=60)
        with client:
            assert push(client, "before") == httpx.codes.CREATED
            server.stop()
            standby.kill()
            started = time.monotonic()
            server.start(seconds=60)
            assert time.monotonic() - started < 20
            assert client.get("/v2/admin/app/manifests/before").status_code == httpx.codes.OK
            assert client.get(f"/v2/admin/app/blobs/{DIGEST}").content == BLOB
            assert client.get("/health").json() == {"Error": "", "Healthy": True}


def test_a_first_start_waits_for_a_primary_and_then_says_that_there_is_none(
    tmp_path: Path, pair: tuple[RunningPostgresql, RunningPostgresql]
) -> None:
    """A copy of nothing cannot be served: whoever supervises the server starts it again."""
    primary, standby = pair
    server = replica(tmp_path, pair, 5)
    primary.kill()
    with pytest.raises(RuntimeError, match=r"Error: No primary at .* answers"):
        server.start(seconds=60)
    standby.promote()
    with server:
        assert server.is_ready
