"""The load generators: wrk for many requests, our own clients for large bodies and pushes."""

import hashlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from benchmarks.content import (
    LAYER_TYPE,
    MANIFEST_TYPE,
    PUSHED,
    Fetch,
    Object,
    descriptor,
    manifest_of,
)
from benchmarks.failure import BenchmarkError
from benchmarks.hammer import Rate
from benchmarks.server import Server
from benchmarks.wire import Address, Connection, chunked, with_digest

WRK_TIMEOUT_SECONDS = 30
PUSHERS = 8
LAYER_BYTES = 64 * 1024
PULL_BUFFER_BYTES = 1024 * 1024
SCRIPT = """\
local paths = {%s}
local requests = {}
local count = 0
local thread_count = 0

function setup(thread)
  thread:set("first", thread_count)
  thread_count = thread_count + 1
end

function init(args)
  for name, value in pairs({%s}) do wrk.headers[name] = value end
  for number, path in ipairs(paths) do requests[number] = wrk.format("GET", path) end
  count = first * math.floor(#requests / 2)
end

function request()
  count = count + 1
  return requests[count %% #requests + 1]
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {"requests": %%d, "microseconds": %%d, "bytes": %%d, "p50": %%d, "p99": %%d,' ..
    ' "max": %%d, "connect": %%d, "read": %%d, "write": %%d, "status": %%d, "timeout": %%d}\\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50),
    latency:percentile(99), latency.max, e.connect, e.read, e.write, e.status, e.timeout))
end
"""


def run_wrk(
    address: Address,
    headers: Mapping[str, str],
    fetches: Sequence[Fetch],
    connections: int,
    seconds: float,
    folder: Path,
) -> Rate:
    """GET the paths in turn with wrk.

    Raises:
        BenchmarkError: any request failed, or bodies were shorter than they should be.
    """
    sent = dict(headers) | {"Accept": MANIFEST_TYPE}
    script = folder / "wrk.lua"
    script.touch(mode=0o600)
    script.write_text(
        SCRIPT % (
            ", ".join(json.dumps(fetch.path) for fetch in fetches),
            ", ".join(f"[{json.dumps(k)}] = {json.dumps(v)}" for k, v in sent.items()),
        ),
        encoding="utf-8",
    )  # fmt: skip
    threads = min(2, connections, len(os.sched_getaffinity(0)))
    command = [
        "wrk", "-t", str(threads), "-c", str(connections), "-d", f"{max(1, round(seconds))}s",
        "--timeout", f"{WRK_TIMEOUT_SECONDS}s", "-s", str(script), address.url,
    ]  # fmt: skip
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in finished.stdout.splitlines() if line.startswith("RESULT ")]
    if finished.returncode or not lines:
        raise BenchmarkError(f"wrk failed: {finished.stdout} {finished.stderr}")
    return _rate(json.loads(lines[0].removeprefix("RESULT ")), fetches)


def _rate(result: Mapping[str, int], fetches: Sequence[Fetch]) -> Rate:
    kinds = ("connect", "read", "write", "status", "timeout")
    errors = {kind: result[kind] for kind in kinds if result[kind]}
    if errors or not result["requests"]:
        raise BenchmarkError(f"wrk met errors in {result['requests']} requests: {errors}")
    least = result["requests"] * min(fetch.size for fetch in fetches)
    if result["bytes"] < least:
        raise BenchmarkError(f"wrk read {result['bytes']} bytes of at least {least}")
    return Rate(
        result["requests"] / (result["microseconds"] / 1e6),
        result["requests"],
        result["p50"] / 1e3,
        result["p99"] / 1e3,
        result["max"] / 1e3,
    )


def pull(server: Server, repository: str, fetch: Fetch, *, verify: bool = False) -> float:
    """GET a large blob into a buffer that is used again; return the seconds."""
    headers = server.headers(repository, fresh=True)
    buffer = bytearray(PULL_BUFFER_BYTES)
    hashing = hashlib.sha256()
    consume = hashing.update if verify else lambda _: None
    with Connection(server.address) as link:
        begin = time.perf_counter()
        answer, size = link.download(fetch.path, headers, buffer, consume)
        seconds = time.perf_counter() - begin
    answer.expect(200, f"GET {fetch.path}")
    if size != fetch.size or (verify and f"sha256:{hashing.hexdigest()}" != fetch.digest):
        raise BenchmarkError(f"GET {fetch.path}: {size} bytes, or another digest")
    return seconds


def push_image(server: Server, layer_count: int) -> float:
    """Push a new image as docker does, a few layers at a time; return the seconds."""
    layers = [Object.of(os.urandom(LAYER_BYTES)) for _ in range(layer_count)]
    config = Object.of(json.dumps({"created": time.time_ns()}).encode())
    listed = [descriptor(LAYER_TYPE, layer.digest, LAYER_BYTES) for layer in layers]
    manifest = manifest_of(config, listed, "pushed")
    headers = server.headers(PUSHED, fresh=True)
    links = [Connection(server.address) for _ in range(PUSHERS)]
    begin = time.perf_counter()
    try:
        _push_layers(links, headers, layers)
        _push_as_docker(links[0], headers, config)
        sent = dict(headers) | {"Content-Type": MANIFEST_TYPE}
        target = f"/v2/{PUSHED}/manifests/image-{manifest.digest[7:19]}"
        answer = links[0].request("PUT", target, sent, manifest.body)
        answer.expect(201, "put a manifest")
        return time.perf_counter() - begin
    finally:
        for link in links:
            link.close()


def _push_layers(
    links: Sequence[Connection], headers: Mapping[str, str], layers: Sequence[Object]
) -> None:
    queue: SimpleQueue[Object] = SimpleQueue()
    for layer in layers:
        queue.put(layer)
    failures: list[Exception] = []

    def work(link: Connection) -> None:
        try:
            while not failures:
                _push_as_docker(link, headers, queue.get_nowait())
        except Empty:
            return
        except (BenchmarkError, OSError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(link,), daemon=True) for link in links]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise BenchmarkError(f"push of an image: {failures[0]}") from failures[0]


def _push_as_docker(link: Connection, headers: Mapping[str, str], blob: Object) -> None:
    """HEAD, POST, a chunked PATCH with all bytes, PUT with the digest."""
    link.request("HEAD", f"/v2/{PUSHED}/blobs/{blob.digest}", headers).expect(404, "head")
    begun = link.request("POST", f"/v2/{PUSHED}/blobs/uploads/", headers)
    begun.expect(202, "begin an upload")
    sent = dict(headers) | {"Transfer-Encoding": "chunked"}
    sent["Content-Type"] = "application/octet-stream"
    patched = link.request("PATCH", begun.location, sent, chunked(blob.body))
    patched.expect(202, "patch an upload")
    target = with_digest(patched.location, blob.digest)
    link.request("PUT", target, headers).expect(201, "close an upload")


def disk_write_seconds(source: Path, folder: Path, size: int) -> float:
    """Return how long dd takes to write `source` and flush it: what the disk allows."""
    copy = folder / "dd"
    os.sync()
    begin = time.perf_counter()
    finished = subprocess.run(
        ["dd", f"if={source}", f"of={copy}", "bs=1M", "conv=fdatasync"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    written = copy.stat().st_size if copy.exists() else 0
    copy.unlink(missing_ok=True)
    if finished.returncode or written != size:
        raise BenchmarkError(f"dd failed: {finished.stderr}")
    return seconds
