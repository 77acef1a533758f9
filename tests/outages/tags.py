"""Clients that move and read tags through every server, and write down when and what they saw."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
from tests.linearizability.register import UNKNOWN, Operation, Violation, check
from tests.outages.images import MANIFEST_TYPE, digest_of, manifest_of

_CLIENTS = 5
_TAGS = ("one", "two", "three")
_PAUSE_SECONDS = 0.05
_TIMEOUT_SECONDS = 120.0
_CONFIG = b"{}"


@dataclass
class TagClients:
    """They ask the servers directly: a balancer that asks again would write twice."""

    servers: Sequence[str]
    account: tuple[str, str]
    seed: int
    history: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    stale: int = 0
    """Reads that said they came from a standby: they may be old, by design."""
    unknown: int = 0
    """Writes whose outcome nobody learned."""

    def __post_init__(self) -> None:
        """Begin with nobody."""
        self._repository = f"{self.account[0]}/register-{self.seed}"
        self._written: dict[str, set[str]] = defaultdict(set)
        self._problems: list[str] = []
        self._stopping = asyncio.Event()
        self._clients: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Push what all manifests refer to, then start the clients."""
        async with self._connect() as http:
            digest = digest_of(_CONFIG)
            path = f"{self.servers[0]}/v2/{self._repository}/blobs/uploads/?digest={digest}"
            (await http.post(path, content=_CONFIG)).raise_for_status()
        self._clients = [asyncio.create_task(self._work(number)) for number in range(_CLIENTS)]

    async def until_more(self, count: int, *, seconds: float = 90) -> None:
        """Return once there were this many more operations.

        Raises:
            TimeoutError: there were not, in time.

        """
        wanted = self.operations + count
        async with asyncio.timeout(seconds):
            while self.operations < wanted:
                for client in self._clients:
                    if client.done():
                        client.result()
                await asyncio.sleep(_PAUSE_SECONDS)

    async def stop(self) -> None:
        """Let every client finish its request, and end."""
        self._stopping.set()
        await asyncio.gather(*self._clients)

    @property
    def operations(self) -> int:
        """How many operations are in the history."""
        return sum(map(len, self.history.values()))

    def problems(self) -> list[str]:
        """Say what no order of events explains."""
        violations: dict[str, Violation | None] = {
            tag: check(history) for tag, history in self.history.items()
        }
        found = [f"{tag}: {violation}" for tag, violation in violations.items() if violation]
        return self._problems + found

    def _connect(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(auth=self.account, trust_env=False, timeout=_TIMEOUT_SECONDS)

    async def _work(self, number: int) -> None:
        generator = random.Random(f"{self.seed}/{number}")
        count = 0
        async with self._connect() as http:
            while not self._stopping.is_set():
                server, tag = generator.choice(self.servers), generator.choice(_TAGS)
                url = f"{server}/v2/{self._repository}/manifests/{tag}"
                if generator.random() < 0.4:
                    count += 1
                    await self._write(http, url, tag, f"{number}/{count}")
                else:
                    await self._read(http, url, tag, f"{number}")
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _write(self, http: httpx.AsyncClient, url: str, tag: str, note: str) -> None:
        payload = manifest_of(_CONFIG, [], note)
        digest = digest_of(payload)
        self._written[tag].add(digest)
        invoked, returned = time.monotonic(), UNKNOWN
        try:
            answer = await http.put(url, content=payload, headers={"Content-Type": MANIFEST_TYPE})
            if answer.status_code == httpx.codes.CREATED:
                returned = time.monotonic()
        except httpx.ConnectError:
            return  # nobody heard of it
        except httpx.TransportError:
            pass
        self.unknown += returned == UNKNOWN
        self.history[tag].append(
            Operation(is_write=True, value=digest, invoked=invoked, returned=returned, note=note)
        )

    async def _read(self, http: httpx.AsyncClient, url: str, tag: str, note: str) -> None:
        invoked = time.monotonic()
        try:
            answer = await http.get(url, headers={"Accept": MANIFEST_TYPE})
        except httpx.TransportError:
            return
        returned = time.monotonic()
        digest: str | None = None
        if answer.status_code == httpx.codes.OK:
            digest = digest_of(answer.content)
            if digest not in self._written[tag]:
                self._problems.append(f"{tag} was read as {digest}, which nobody wrote")
        elif answer.status_code != httpx.codes.NOT_FOUND:
            return
        if "Warning" in answer.headers:
            self.stale += 1
            return
        self.history[tag].append(
            Operation(is_write=False, value=digest, invoked=invoked, returned=returned, note=note)
        )
