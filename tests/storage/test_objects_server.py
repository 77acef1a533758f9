"""`dtr serve --storage`: checked by use before anything is answered."""

import os
import re
from pathlib import Path

import httpx
import pytest
from tests.support.processes import free_port
from tests.support.seaweed import REGION, RunningS3
from tests.support.server import RunningServer

from dtr.model.digest import Digest

pytestmark = [pytest.mark.server, pytest.mark.s3]

USER = ("alice", "alice's long enough password")


def test_a_server_keeps_blobs_in_a_bucket(tmp_path: Path, s3_url: str) -> None:
    """What is pushed is pulled, from another worker too, and nothing of it is on the disk."""
    content = os.urandom(20 << 20)
    digest = Digest.of(content)
    options = ("--storage", s3_url, "--workers", "2")
    with RunningServer(tmp_path, options=options) as server:
        client = httpx.Client(auth=server.add_user(*USER), base_url=server.url, trust_env=False)
        with client:
            location = client.post("/v2/alice/r/blobs/uploads/").headers["Location"]
            assert client.patch(location, content=content).status_code == 202
            done = client.put(location, params={"digest": str(digest)})
            assert done.status_code == 201
            pulled = client.get(f"/v2/alice/r/blobs/{digest}")
            assert Digest.of(pulled.content) == digest
            assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200
        files = [path for path in (server.data_dir / "blobs").rglob("*") if path.is_file()]
        assert files == []
        assert "Exception" not in server.log.read_text()


@pytest.mark.parametrize(
    ("place", "secret", "reason"),
    [
        ("s3://nothing-here/p?endpoint={endpoint}&region=x", None, "write an object.*NoSuchBucket"),
        ("s3://dtr/p?endpoint={endpoint}&region=x", "wrong", "write an object.*SignatureDoesNot"),
        ("s3://dtr/p?endpoint=http://127.0.0.1:{port}&region=x", None, "write an object"),
        ("file:///no/such/directory", None, "not there"),
        ("s3://key:secret-thing@dtr/p", None, "must hold no credentials"),
    ],
)
def test_storage_that_cannot_be_used_is_said_at_the_start(
    tmp_path: Path, s3: RunningS3, place: str, secret: str | None, reason: str
) -> None:
    """One sentence says which step failed and why; the server does not start."""
    url = place.format(endpoint=s3.endpoint, port=free_port())
    environment = {"AWS_SECRET_ACCESS_KEY": secret} if secret else {}
    server = RunningServer(tmp_path, options=("--storage", url), environment=environment)
    with pytest.raises(RuntimeError) as failure:
        server.start(seconds=30)
    said = str(failure.value)
    assert re.search(reason, said), said
    assert "Traceback" not in said
    assert "secret-thing" not in said
    assert REGION not in said
