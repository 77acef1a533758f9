"""A control plane in this process: real TLS, real certificates, the routes, a store in memory."""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from aiohttp import web
from pydantic import JsonValue
from structlog.testing import capture_logs
from tests.support.processes import free_port

from dtr.accounts.passwords import hash_password
from dtr.testing.store import MemoryStore
from dtr.ucp import keys
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.api import PREFIX, ApiRoute, OperationKind
from dtr.ucp.authority import Authority, make_request
from dtr.ucp.bootstrap import FirstNode, begin, fill_store, read_bootstrap
from dtr.ucp.client import UcpClient
from dtr.ucp.controller.access import Gate
from dtr.ucp.controller.routes import ucp_routes
from dtr.ucp.controller.server import ApiServer, TlsCertificate
from dtr.ucp.controller.sessions import Administrators
from dtr.ucp.etcd import EtcdMember
from dtr.ucp.etcd.members import EtcdStatus
from dtr.ucp.model import Administrator, Node, NodeReport
from dtr.ucp.store import Entry, Put
from dtr.ucp.tokens import Token

T = TypeVar("T")

ADMINISTRATOR = "admin"
PASSWORD = "correct horse battery staple"
HASH = hash_password(PASSWORD)
_LOOP_PASSES = 10


class OneMember:
    """An etcd of one member, which leads."""

    async def list(self) -> Sequence[EtcdMember]:
        """Return it."""
        return [EtcdMember("1", "first", "https://127.0.0.1:2380", "https://127.0.0.1:2379", False)]

    async def status(self, client_url: str) -> EtcdStatus | None:  # noqa: ARG002
        """Answer."""
        return EtcdStatus("1", "1", is_learner=False, version="3.4.23", database_bytes=20_480)


def accepts_all(arguments: Any) -> dict[str, JsonValue]:
    """Keep arguments as they are."""
    return dict(arguments)


KINDS = (
    OperationKind("join", accepts_all),
    OperationKind("look", accepts_all, is_exclusive=False),
)


@dataclass
class Joined:
    """A machine that has joined, and what it knows itself by."""

    id: str
    key: str
    certificate: str
    directory: Path

    def context(self, ca: str) -> ssl.SSLContext:
        """Return what it speaks with."""
        context = ssl.create_default_context(cadata=ca)
        certificate, key = self.directory / "node.crt", self.directory / "node.key"
        certificate.write_text(self.certificate)
        key.write_text(self.key)
        context.load_cert_chain(certificate, key)
        return context


@dataclass
class ControlPlane:
    """Controllers on one store; time stands still until told."""

    place: Path
    extra_routes: Sequence[ApiRoute] = ()
    kinds: Sequence[OperationKind] = KINDS
    # Certificates, and commands that say what was just done, go by the real clock.
    now: float = field(default_factory=lambda: float(int(time.time())))
    ports: list[int] = field(default_factory=list)
    monotonic: Callable[[], float] = time.monotonic
    """By which controllers count how much nodes write."""

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runners: dict[int, web.AppRunner] = {}
        self._joined = 0
        self.store = MemoryStore(clock=lambda: self.now)
        self.directory = NodeDirectory(self.place / "first")

    def __enter__(self) -> Self:
        self._logs = capture_logs()
        self.logs = self._logs.__enter__()
        self._thread.start()
        port = free_port()
        begun = begin(
            self.directory,
            FirstNode("first", "127.0.0.1", port, ("ucp.example",)),
            Administrator(name=ADMINISTRATOR, password_hash=HASH, changed_at=self.now),
            self.now,
        )
        self.ca, self.token = begun.ca_pem, Token.parse(begun.token)
        self.worker_token = Token.parse(begun.worker_token)
        bootstrap = read_bootstrap(self.directory.bootstrap)
        assert bootstrap is not None
        self.first = bootstrap.node
        self.authority = Authority.load(self.ca, bootstrap.secrets.ca_key)
        self.run(fill_store(self.store, bootstrap, member_id, protect))
        self.serve(port)
        return self

    def __exit__(self, *_: object) -> None:
        for port in list(self._runners):
            self.stop(port)
        self.run(_settled())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._logs.__exit__(None, None, None)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something where the controllers run."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def serve(self, port: int | None = None) -> int:
        """Start a controller."""
        port = port or free_port()

        async def start() -> None:
            administrators = Administrators(self.store)
            routes = ucp_routes(
                authority=self.authority,
                administrators=administrators,
                members=OneMember(),
                kinds=self.kinds,
                port=self.first.controller_port,
                monotonic=self.monotonic,
            )
            server = ApiServer(
                self.store,
                Gate(self.store, administrators),
                [*routes, *self.extra_routes],
                clock=lambda: self.now,
            )

            async def close(_: web.Application) -> None:
                administrators.close()

            runner = server.runner(shutdown_seconds=0.1)
            runner.app.on_cleanup.append(close)
            await runner.setup()
            files = self.directory
            tls = TlsCertificate(files.certificate, files.key, files.ca)
            await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls.context).start()
            self._runners[port] = runner

        self.run(start())
        self.ports.append(port)
        return port

    def stop(self, port: int) -> None:
        """End a controller."""
        self.ports.remove(port)
        self.run(self._runners.pop(port).cleanup())

    @property
    def address(self) -> str:
        """Return the address of the first controller that runs."""
        return f"127.0.0.1:{self.ports[0]}"

    @contextmanager
    def client(self) -> Iterator[UcpClient]:
        """Give an administrator's session."""
        with UcpClient(self.address, ca_pem=self.ca) as client:
            client.login(ADMINISTRATOR, PASSWORD)
            yield client

    @contextmanager
    def http(self, node: Joined | None = None) -> Iterator[httpx.Client]:
        """Give a plain client, or that of a node."""
        context = node.context(self.ca) if node else ssl.create_default_context(cadata=self.ca)
        base = f"https://{self.address}"
        with httpx.Client(base_url=base, verify=context, timeout=60, trust_env=False) as client:
            yield client

    def join(self, name: str, address: str, **changed: Any) -> Joined:
        """Have a machine join."""
        request = make_request()
        answer = self.ask_to_join(
            {"name": name, "host_address": address, "csr": request.request_pem, **changed}
        )
        assert answer.status_code == 200, answer.text
        found = answer.json()
        self._joined += 1
        directory = self.place / f"joined-{self._joined}"
        directory.mkdir()
        return Joined(found["node_id"], request.key_pem, found["certificate"], directory)

    def ask_to_join(self, body: dict[str, Any]) -> httpx.Response:
        """Send a wish to join."""
        with self.http() as http:
            return http.post(f"{PREFIX}/nodes", json={"secret": self.token.secret, **body})

    def entry(self, key: str) -> Entry | None:
        """Return what is kept."""
        return self.run(self.store.get(key))

    def node(self, node_id: str) -> Node:
        """Return what is kept of a node."""
        entry = self.entry(keys.node(node_id))
        assert entry is not None
        return entry.document(Node)

    def revision(self) -> int:
        """Return how many changes there have been."""
        return self.run(self.store.list(keys.NODES))[1]

    def put(self, key: str, value: bytes) -> None:
        """Write something."""
        assert self.run(self.store.commit([Put(key, value)]))


async def _settled() -> None:
    """Let connections that are closing be closed; a broken handshake takes a few passes."""
    for _ in range(_LOOP_PASSES):
        await asyncio.sleep(0)


def report(node_id: str, now: float, **changed: Any) -> dict[str, Any]:
    """Return a node's report as an agent sends it."""
    told = NodeReport(node_id=node_id, at=now, version="1", revision=1)
    return {**told.model_dump(mode="json"), **changed}


async def member_id(_node_id: str) -> str:
    """Return an id as etcd's."""
    return "8e9e05c52164694d"


async def protect(_password: str) -> None:
    """Do nothing: a store in memory has no users."""
