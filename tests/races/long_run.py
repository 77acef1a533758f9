"""Many clients, several application instances, collectors and checks at once, in real time.

    python -m tests.races.long_run --seconds 600 --seed 1

Each instance has an event loop and threads of its own on one shared directory, as each process of a
server has, and any of them gets any request. What was acknowledged is written down by whoever was
told, and read back: while it goes on by the clients, at the end whole.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.crash.http import Answer
from tests.crash.ledger import Repository, digest_of
from tests.crash.load import MANIFEST, Client, ProblemError, manifest_of
from tests.crash.verify import Verifier
from tests.http.asgi import ask
from tests.http.client import basic

from dtr.collect.check import Checker, Severity
from dtr.collect.collector import Collector
from dtr.server.app import build_application, collect_settings
from dtr.server.drivers import Drivers
from dtr.server.metrics import Metrics
from dtr.server.settings import Settings
from dtr.storage import FilesystemBlobStore
from dtr.testing.registry import ADMIN, RegistryState, open_state

T = TypeVar("T")

INSTANCES = 3
CLIENTS = 6
CROWD = 3
GRACE_SECONDS = 2
SETTINGS = Settings.model_validate(
    {
        "log": {"access": False},
        "collect": {
            "grace_seconds": GRACE_SECONDS,
            "untagged": "collect",
            "untagged_grace_seconds": GRACE_SECONDS,
            "batch": 10,
        },
        "registry": {"missing_references": "refuse"},
    }
)


class Instance:
    """One application with an event loop of its own in a thread of its own."""

    def __init__(self, directory: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="instance")
        self._directory = directory

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self._open())
        return self

    def __exit__(self, *_error: object) -> None:
        self.run(self.application.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> None:
        self.store = FilesystemBlobStore(self._directory, sync_uploads=False)
        self.state: RegistryState = open_state(self._directory, store=self.store)
        drivers = Drivers(self.state.database, self.store)
        self.application = build_application(SETTINGS, drivers, Metrics())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something there and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(120)

    async def collect(self) -> int:
        """Collect what is due; return how many blobs went."""
        database = self.state.database
        done = await Collector(database, self.store, collect_settings(SETTINGS)).run()
        return done.blobs

    async def check(self) -> list[str]:
        """Return what is wrong, garbage aside."""
        checker = Checker(self.state.database, self.store, repair=True, verify=True)
        return [
            f"{finding.what}: {finding.subject}"
            async for finding in checker.findings()
            if finding.severity is not Severity.GARBAGE
        ]


class AnyInstance:
    """Sends each request to any of the instances."""

    def __init__(self, instances: list[Instance], seed: int) -> None:
        self._instances = instances
        self._random = random.Random(seed)
        self._authorization = (b"authorization", basic(*ADMIN).encode())

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request."""
        pieces = [body] if isinstance(body, bytes) else list(body or ())
        sent = [(name.lower().encode(), text.encode()) for name, text in (headers or {}).items()]
        instance = self._random.choice(self._instances)
        path, _, query = path.partition("?")
        answer = instance.run(
            ask(
                instance.application,
                method,
                path,
                query=query.encode(),
                headers=[self._authorization, *sent],
                body=pieces,
            )
        )
        found = {name.decode(): value.decode() for name, value in answer.headers}
        return Answer(answer.status, found, answer.body)

    def close(self) -> None:
        """Keep nothing open."""


class CrowdMember:
    """One of many who push the same blobs and move the same tag of one repository."""

    def __init__(self, http: AnyInstance, seed: int, pushed: set[bytes]) -> None:
        self._http = http
        self._random = random.Random(seed)
        self._pushed = pushed
        self.counts: Counter[str] = Counter()
        self.problem: BaseException | None = None

    def run(self, stop: threading.Event) -> None:
        """Push and pull until stopped."""
        try:
            while not stop.is_set():
                self._push()
                self._pull()
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self.problem = error

    def _push(self) -> None:
        layer = b"crowd" * self._random.randrange(1, 5)
        began = time.monotonic()
        for content in (b"{}", layer):
            path = f"/v2/admin/crowd/blobs/uploads/?digest={digest_of(content)}"
            self._expect(self._http.send("POST", path, content), 201)
        payload = manifest_of(b"{}", [layer], str(self._random.randrange(20)))
        self._pushed.add(payload)
        headers = {"Content-Type": MANIFEST}
        answer = self._http.send("PUT", "/v2/admin/crowd/manifests/latest", payload, headers)
        if answer.status != 201 and time.monotonic() - began > GRACE_SECONDS:
            self.counts["pushes that took longer than the grace"] += 1
            return
        self._expect(answer, 201)
        self.counts["pushes"] += 1

    def _pull(self) -> None:
        answer = self._http.send("GET", "/v2/admin/crowd/manifests/latest")
        self._expect(answer, 200)
        if answer.body not in self._pushed:
            raise ProblemError("the tag is on what nobody pushed")
        self.counts["pulls"] += 1

    def _expect(self, answer: Answer, status: int) -> None:
        if answer.status != status:
            raise ProblemError(f"expected {status}, got {answer}")


class LongRun:
    """All of it, for a while."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory = directory
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self.counts: Counter[str] = Counter()
        self.problems: list[BaseException] = []

    def run(self, seconds: float) -> None:
        """Work for that long, then read everything back.

        Raises:
            ProblemError: the registry broke a promise.

        """
        with ExitStack() as stack:
            first = stack.enter_context(Instance(self._directory))
            rest = [stack.enter_context(Instance(self._directory)) for _ in range(INSTANCES - 1)]
            self._run([first, *rest], seconds)

    def _run(self, instances: list[Instance], seconds: float) -> None:
        clients = [self._client(instances, number) for number in range(CLIENTS)]
        pushed: set[bytes] = set()
        crowd = [CrowdMember(self._http(instances), number, pushed) for number in range(CROWD)]
        everybody: list[Client | CrowdMember] = [*clients, *crowd]
        works: list[Callable[[threading.Event], None]] = [each.run for each in everybody]
        works += [self._repeat("collected blobs", each.collect, each) for each in instances[:2]]
        works.append(self._repeat("checks", self._checked(instances[2]), instances[2]))
        threads = [threading.Thread(target=work, args=(self._stop,)) for work in works]
        for thread in threads:
            thread.start()
        self._stop.wait(seconds)
        self._stop.set()
        for thread in threads:
            thread.join()
        for each in everybody:
            self.counts.update(each.counts)
            if each.problem is not None:
                raise each.problem
        if self.problems:
            raise self.problems[0]
        verifier = Verifier(self._http(instances), self._random)
        for client in clients:
            for repository in client.repositories:
                verifier.verify(repository)
        self.counts.update(verifier.counts)

    def _http(self, instances: list[Instance]) -> AnyInstance:
        return AnyInstance(instances, self._random.randrange(1 << 60))

    def _client(self, instances: list[Instance], number: int) -> Client:
        repositories = [
            Repository(f"admin/c{number}/{name}", GRACE_SECONDS, GRACE_SECONDS)
            for name in ("one", "two")
        ]
        return Client(self._http(instances), repositories, self._random.randrange(1 << 60))

    def _checked(self, instance: Instance) -> Callable[[], Coroutine[Any, Any, int]]:
        async def check() -> int:
            wrong = await instance.check()
            if wrong:
                raise ProblemError("; ".join(wrong))
            return 1

        return check

    def _repeat(
        self, name: str, work: Callable[[], Coroutine[Any, Any, int]], instance: Instance
    ) -> Callable[[threading.Event], None]:
        def repeat(stop: threading.Event) -> None:
            try:
                while not stop.wait(0.05):
                    self.counts[name] += instance.run(work())
            except BaseException as error:  # noqa: BLE001 - the main thread raises it
                self.problems.append(error)
                stop.set()

        return repeat

    def report(self) -> str:
        """Return the table."""
        return "\n".join(f"{count:9} {what}" for what, count in sorted(self.counts.items()))


def main() -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.seconds:g} seconds")
    with tempfile.TemporaryDirectory(prefix="dtr-long-run-") as directory:
        long_run = LongRun(Path(directory), options.seed)
        try:
            long_run.run(options.seconds)
        except ProblemError as error:
            print(f"PROBLEM: {error}")
            return 1
        finally:
            print(long_run.report())
    return 0


if __name__ == "__main__":
    sys.exit(main())
