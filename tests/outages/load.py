"""A steady load of pushes and pulls, and what the registry owes to those who pushed."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import httpx
from tests.outages.docker import Docker, DockerError, HttpOptions, Record
from tests.outages.images import MANIFEST_TYPE, Image, digest_of, random_image

_PUSHERS = 3
_PULLERS = 3
_PAUSE_SECONDS = 0.2
_PERSON_SECONDS = 3.0  # to read what went wrong and press two keys


@dataclass(frozen=True)
class Acknowledged:
    """A push whose end docker saw."""

    repository: str
    tag: str
    image: Image


@dataclass
class Load:
    """Clients that push and pull through one address until told to stop."""

    url: str
    account: tuple[str, str]
    seed: int
    pushes: Record = field(default_factory=Record)
    pulls: Record = field(default_factory=Record)
    ledger: list[Acknowledged] = field(default_factory=list)
    """Every push that was acknowledged: it is there for ever."""
    http: HttpOptions = field(default_factory=HttpOptions)
    failed_again: list[str] = field(default_factory=list)
    """Pushes and pulls that failed, and failed again when docker's user repeated the command."""

    def __post_init__(self) -> None:
        """Begin with nobody."""
        self._random = random.Random(self.seed)
        self._stopping = asyncio.Event()
        self._clients: list[asyncio.Task[None]] = []

    async def start(self, *, pushes: int = 6) -> None:
        """Start all clients; return once this many pushes were acknowledged and some pulled."""
        self._clients = [asyncio.create_task(self._push(number)) for number in range(_PUSHERS)]
        self._clients += [asyncio.create_task(self._pull()) for _ in range(_PULLERS)]
        await self.until_more(pushes)

    async def until_more(self, count: int, *, seconds: float = 90) -> None:
        """Return once there were this many more pushes and pulls.

        Raises:
            TimeoutError: there were not, in time.

        """
        pushes, pulls = self.pushes.done + count, self.pulls.done + count
        async with asyncio.timeout(seconds):
            while self.pushes.done < pushes or self.pulls.done < pulls:
                for client in self._clients:
                    if client.done():
                        client.result()
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Let every client finish what it does, and end."""
        self._stopping.set()
        await asyncio.gather(*self._clients)

    async def lost(self, url: str) -> list[str]:
        """Read everything that was acknowledged back through a server; say what is not there."""
        slots = asyncio.Semaphore(4)
        async with self.http.client(url) as http:
            http.auth, http.timeout = httpx.BasicAuth(*self.account), httpx.Timeout(30)
            http.follow_redirects = True

            async def missing(owed: Acknowledged) -> list[str]:
                async with slots:
                    return await _missing(http, owed)

            found = await asyncio.gather(*map(missing, self.ledger))
        return [f"{url}: {line}" for lines in found for line in lines]

    async def _push(self, number: int) -> None:
        docker = Docker(self.url, self.account, self.pushes, self.http)
        generator = random.Random(self._random.random())
        repository = f"{self.account[0]}/outage-{self.seed}-{number}"
        count = 0
        while not self._stopping.is_set():
            image, tag = random_image(generator), f"v{count}"
            push = partial(docker.push, repository, tag, image)
            if await self._twice(push, self.pushes):
                self.ledger.append(Acknowledged(repository, tag, image))
            count += 1
            await asyncio.sleep(_PAUSE_SECONDS)
        await docker.close()

    async def _pull(self) -> None:
        docker = Docker(self.url, self.account, self.pulls, self.http)
        while not self._stopping.is_set():
            await asyncio.sleep(_PAUSE_SECONDS)
            if not self.ledger:
                continue
            owed = self._random.choice(self.ledger)
            pull = partial(docker.pull, owed.repository, owed.tag, owed.image)
            await self._twice(pull, self.pulls)
        await docker.close()

    async def _twice(self, command: Callable[[], Awaitable[None]], record: Record) -> bool:
        """Run a command of docker's user, who repeats it once when it fails; return the end."""
        for failures in (record.failures, self.failed_again):
            try:
                await command()
            except DockerError as error:
                failures.append(str(error))
                await asyncio.sleep(_PERSON_SECONDS)
            else:
                return True
        return False


async def _missing(http: httpx.AsyncClient, owed: Acknowledged) -> list[str]:
    """Return what of an acknowledged push is not there as it was pushed."""
    base = f"/v2/{owed.repository}"
    wanted = {f"{base}/manifests/{owed.tag}": owed.image.digest}
    wanted[f"{base}/manifests/{owed.image.digest}"] = owed.image.digest
    wanted |= {f"{base}/blobs/{digest}": digest for digest in owed.image.blobs}
    lost = []
    for path, digest in wanted.items():
        answer = await http.get(path, headers={"Accept": MANIFEST_TYPE})
        if answer.status_code != httpx.codes.OK or digest_of(answer.content) != digest:
            lost.append(f"{path}: {answer.status_code}")
    return lost
