"""An embedded registry moves its blobs to a bucket, and back, without losing any."""

import json
import os
from pathlib import Path

import httpx
import pytest
from tests.support.server import RunningServer

from dtr.model.digest import Digest

pytestmark = [pytest.mark.server, pytest.mark.s3]

USER = ("alice", "alice's long enough password")


def push(server: RunningServer, content: bytes) -> str:
    """Push a blob in one request."""
    digest = Digest.of(content)
    answer = httpx.post(
        f"{server.url}/v2/alice/r/blobs/uploads/",
        params={"digest": str(digest)},
        content=content,
        auth=USER,
        trust_env=False,
    )
    assert answer.status_code == 201, answer.text
    return str(digest)


def pull(server: RunningServer, digest: str) -> bytes:
    """Pull a blob."""
    url = f"{server.url}/v2/alice/r/blobs/{digest}"
    return httpx.get(url, auth=USER, trust_env=False).raise_for_status().content


def test_a_registry_moves_to_a_bucket_and_back(tmp_path: Path, s3_url: str) -> None:
    """Copied while it serves; everything is there after the switch, and after the way back."""
    contents = [os.urandom(size) for size in (0, 100, 20 << 20)]
    with RunningServer(tmp_path, options=("--workers", "1")) as server:
        server.add_user(*USER)
        digests = [push(server, content) for content in contents]
        first = json.loads(server.run("storage", "copy", "--to", s3_url, "--json"))
        # With the registry's own mark.
        assert (first["copied"], first["present"], first["damaged"]) == (4, 0, [])
        contents.append(b"meanwhile")
        digests.append(push(server, contents[-1]))
    place = f"file://{server.data_dir}"
    delta = server.run("storage", "copy", "--from", place, "--to", s3_url)
    assert delta.startswith("Copied blobs: 1 (9 B). There already: 4 "), delta

    options = ("--workers", "1", "--storage", s3_url)
    moved = RunningServer(tmp_path, options=options)
    with moved:
        assert [pull(moved, digest) for digest in digests] == contents
        contents.append(os.urandom(10 << 20))
        digests.append(push(moved, contents[-1]))
    back = json.loads(server.run("storage", "copy", "--from", s3_url, "--to", place, "--json"))
    assert (back["copied"], back["damaged"]) == (1, [])
    with server:
        assert [pull(server, digest) for digest in digests] == contents
        assert json.loads(server.run("fsck", "--verify", "--json")) == []
