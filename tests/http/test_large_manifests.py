"""A manifest of tens of thousands of layers is nothing that other requests wait for."""

import asyncio
import gc
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.http.client import Repository, assert_error, descriptor
from tests.http.conftest import IN_PROCESS, Connect, OpenRegistry
from tests.support.processes import wait_until

from dtr.model.digest import Digest
from dtr.model.errors import ManifestInvalidError, UnavailableError
from dtr.model.manifest_process import answer_to, manifest_of, request_of
from dtr.model.manifests import OCI_INDEX, OCI_MANIFEST, Limits, parse_manifest
from dtr.registry import parsing
from dtr.server import serve
from dtr.server.settings import Settings
from dtr.testing.registry import ALICE

LAYERS = 37_000
IN_SHARED_STATE = pytest.mark.parametrize("target", IN_PROCESS[:3], indirect=True)


def manifest_with(layers: int, salt: int = 0, **more: Any) -> bytes:
    """Return a manifest of many layers, none of which is here."""
    entries = [
        {"mediaType": "a/b", "digest": f"sha256:{salt * LAYERS + number:064x}", "size": 0}
        for number in range(layers)
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(b"config")}
    return json.dumps({**document, "layers": entries, **more}, separators=(",", ":")).encode()


LARGE = manifest_with(LAYERS)


@pytest.mark.parametrize(
    "payload",
    [
        LARGE,
        manifest_with(0),
        manifest_with(1, subject=descriptor(b"subject"), artifactType="a/b"),
        manifest_with(3, annotations={"é \n": "\U0001f433", "": ""}),
        manifest_with(2, blobs=[descriptor(b"more")]),
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "manifests": [
                    descriptor(b"child", OCI_MANIFEST),
                    descriptor(b"far", "application/vnd.oci.image.layer.nondistributable.v1.tar"),
                ],
            }
        ).encode(),
    ],
    ids=len,
)
def test_another_process_reads_a_manifest_as_this_one_does(payload: bytes) -> None:
    """Whatever it has in it."""
    found = manifest_of(answer_to(request_of(payload, "", Limits())))
    assert found == parse_manifest(payload, "", Limits())


@pytest.mark.parametrize("payload", [b"[]", b"{", LARGE, manifest_with(0, mediaType=1)], ids=len)
def test_another_process_refuses_what_this_one_does(payload: bytes) -> None:
    """In the same words, with the same facts."""
    limits = Limits(references=3)
    with pytest.raises(ManifestInvalidError) as here:
        parse_manifest(payload, "", limits)
    with pytest.raises(ManifestInvalidError) as there:
        manifest_of(answer_to(request_of(payload, "", limits)))
    assert (str(there.value), there.value.detail) == (str(here.value), here.value.detail)


@IN_SHARED_STATE
async def test_a_large_manifest_is_parsed_in_another_process(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stored, found, tagged and refused as others are; what it lacks is said."""

    def never(*_: object) -> None:
        pytest.fail("parsed in the process that answers requests")

    monkeypatch.setattr(parsing, "parse_manifest", never)
    answer = await repository.put_manifest(LARGE, "large")
    assert answer.status_code == 201, answer.text
    assert answer.headers["Docker-Content-Digest"] == Digest.of(LARGE)
    assert answer.headers["Warning"].startswith(f'299 - "{LAYERS + 1} references are not here')
    assert (await repository.client.get(repository.manifest("large"))).content == LARGE
    broken = LARGE.replace(b'"size":0', b'"size":-1', 1)
    error = assert_error(await repository.put_manifest(broken, "broken"), 400, "MANIFEST_INVALID")
    assert error["message"] == "layers[0].size must be a number of bytes"
    answer = await repository.client.delete(repository.manifest(Digest.of(LARGE)))
    assert answer.status_code == 202


@pytest.mark.parametrize("script", ["raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)"])
async def test_a_process_that_dies_is_an_error_of_one_request(
    open_registry: OpenRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """503, and the log says how; small manifests and the next large one are not concerned."""
    repository = connect(open_registry()).login(*ALICE).new_repository()
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(parsing, "_COMMAND", (sys.executable, "-c", script))
        assert_error(await repository.put_manifest(LARGE, "large"), 503, "UNAVAILABLE")
        assert (await repository.put_manifest(manifest_with(1), "small")).status_code == 201
    assert any("not parsed" in line["event"] for line in logs)
    assert (await repository.put_manifest(LARGE, "large")).status_code == 201


async def test_where_no_process_can_be_started_none_is_needed(
    open_registry: OpenRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A machine may have no room for one, or a service manager may forbid it."""
    repository = connect(open_registry()).login(*ALICE).new_repository()
    monkeypatch.setattr(parsing, "_COMMAND", (str(tmp_path / "not there"),))
    with capture_logs() as logs:
        assert (await repository.put_manifest(LARGE, "large")).status_code == 201
    assert any("without a process" in line["event"] for line in logs)


async def test_a_process_that_hangs_is_ended(
    open_registry: OpenRegistry,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Its time is bounded, and it does not outlive the answer."""
    repository = connect(open_registry()).login(*ALICE).new_repository()
    mark = tmp_path / "pid"
    script = f"import os, pathlib, time; pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))"
    command = (sys.executable, "-c", f"{script}; time.sleep(600)")
    monkeypatch.setattr(parsing, "_COMMAND", command)
    monkeypatch.setattr(parsing, "_SECONDS", 2.0)
    assert_error(await repository.put_manifest(LARGE, "large"), 503, "UNAVAILABLE")
    assert not is_running(mark)


def is_running(mark: Path) -> bool:
    """Tell whether the process runs that wrote its id; it may have ended before it did."""
    return mark.exists() and Path(f"/proc/{mark.read_text()}").exists()


def test_the_process_finishes_when_its_service_is_asked_to_end() -> None:
    """A service asks all of its processes at once, and the request that this is for is drained."""
    command = parsing._COMMAND
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        status = Path(f"/proc/{process.pid}/status")
        wait_until(lambda: ignores(status, signal.SIGTERM), "it ignores SIGTERM")
        for asked in (signal.SIGTERM, signal.SIGINT):
            process.send_signal(asked)
        answer, _ = process.communicate(request_of(manifest_with(3), "", Limits()), timeout=60)
    assert process.returncode == 0
    assert len(manifest_of(answer).blobs) == 4


def ignores(status: Path, asked: int) -> bool:
    """Tell whether a process ignores a signal."""
    [mask] = [line for line in status.read_text().splitlines() if line.startswith("SigIgn:")]
    return bool(int(mask.split()[1], 16) >> (asked - 1) & 1)


def test_more_large_manifests_than_may_wait_are_refused() -> None:
    """Each is held in memory meanwhile; small ones do not wait."""
    turns, size = parsing.Turns(), 1 << 20
    taken = [turns.taken(size) for _ in range(parsing.MOST_WAITING)]
    for each in taken:
        each.__enter__()
    with pytest.raises(UnavailableError), turns.taken(size):
        pytest.fail("one too many")
    with turns.taken(1000):
        pass
    taken[0].__exit__(None, None, None)
    with turns.taken(size):
        pass


def test_what_a_worker_has_loaded_is_never_searched_for_garbage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A full collection of it would stop every request for 80 ms."""
    for name in ("configure_logging", "leave_with_parent", "open_drivers", "build_application"):
        monkeypatch.setattr(serve, name, lambda *_, **__: None)
    kept: list[Callable[[], object]] = []
    monkeypatch.setattr(gc, "freeze", lambda: kept.append(gc.collect))
    serve.load_application(Settings(), tmp_path, None, lambda: None)
    assert kept


@contextmanager
def longest_hold() -> Iterator[list[float]]:
    """Collect how long this process computed between two turns of a thread that wants to run."""
    holds: list[float] = []
    is_over = threading.Event()

    def watch() -> None:
        whole, own = time.process_time(), time.thread_time()
        while not is_over.wait(0.0005):
            holds.append(time.process_time() - whole - (time.thread_time() - own))
            whole, own = time.process_time(), time.thread_time()

    thread = threading.Thread(target=watch)
    gc.collect()
    gc.freeze()  # as a worker does; what the tests have loaded is more
    thread.start()
    try:
        yield holds
    finally:
        is_over.set()
        thread.join()
        gc.unfreeze()


@pytest.mark.measuring
@pytest.mark.parametrize("target", [IN_PROCESS[1], IN_PROCESS[2]], indirect=True)
async def test_no_thread_waits_50_ms_for_a_large_manifest(repository: Repository) -> None:
    """In seconds that this process computed, so that a busy machine changes little."""
    await repository.push_manifest(manifest_with(LAYERS, 1), "warm")
    payloads = [manifest_with(LAYERS, salt) for salt in range(2, 6)]
    with longest_hold() as holds:
        for payload in payloads:
            answer = await repository.put_manifest(payload, "large")
            assert answer.status_code == 201
            await asyncio.sleep(0)
    assert max(holds) < 0.05
