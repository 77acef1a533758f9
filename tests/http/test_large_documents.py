"""However large a manifest is, no other request waits for it."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.http.client import descriptor
from tests.http.conftest import Connect, OpenRegistry

from dtr.model.digest import Digest
from dtr.model.manifests import OCI_MANIFEST
from dtr.testing.registry import ALICE

MIB = 1 << 20
EMPTY = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(b"config")}


def one_layer_per_file() -> bytes:
    """Return a manifest that fills 4 MiB."""
    layers = [
        {"mediaType": "a/b", "digest": f"sha256:{number:064x}", "size": 0}
        for number in range(37000)
    ]
    return json.dumps({**EMPTY, "layers": layers}, separators=(",", ":")).encode()


def within_limits(content: bytes, count: int) -> bytes:
    """Return a manifest that has as much of something as is still parsed."""
    text = json.dumps(EMPTY, separators=(",", ":")).encode()
    return text[:-1] + b',"x":[' + content * count + b"0]}"


DOCUMENTS = {
    "one layer per file": one_layer_per_file(),
    "brackets": b"]" * (4 * MIB),
    "objects": b"[" + b"{}," * MIB,
    "allowed objects": within_limits(b"{},", 150_000),
    "allowed lists": within_limits(b"[],", 150_000),
    "escapes": within_limits(b'"' + b"\\u003a" * 600_000 + b'",', 1),
    "backslashes": within_limits(b'"' + b"\\\\" * 2_000_000 + b'",', 1),
}


@contextmanager
def longest_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Collect how long each callback of the event loop ran, in seconds of this thread's own."""
    steps: list[float] = []
    run = asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        started = time.thread_time()
        run(handle)
        steps.append(time.thread_time() - started)

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.Handle, "_run", measured)
        yield steps


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_the_event_loop_goes_on(
    open_registry: OpenRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """No step of it takes 50 ms, whatever a document of 4 MiB is of."""
    repository = connect(open_registry()).login(*ALICE).new_repository()
    await repository.push_manifest(EMPTY, "warm")
    payload = DOCUMENTS[name]
    with longest_step(monkeypatch) as steps:
        answer = await repository.put_manifest(payload, content_type=OCI_MANIFEST)
    assert answer.status_code in {201, 400}, answer.text
    assert max(steps) < 0.05
    if answer.status_code == 201:
        assert answer.headers["Docker-Content-Digest"] == Digest.of(payload)
