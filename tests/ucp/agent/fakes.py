"""A controller that answers what the test says, over real mutual TLS, and components to watch."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import JsonValue
from tests.support.processes import free_port

from dtr.ucp.agent.port import NodeDirectory, SupervisionError
from dtr.ucp.api import PREFIX
from dtr.ucp.authority import Authority, make_request, node_names
from dtr.ucp.model import Node, NodeIdentity, NodeReport, Wanted

NODE_ID = "a" * 26
ADDRESS = "127.0.0.1"


def make_node(root: Path, authority: Authority, controllers: tuple[str, ...]) -> NodeIdentity:
    """Make a node's directory as joining would."""
    directory = NodeDirectory(root)
    directory.ca.parent.mkdir(parents=True)
    certify(directory, authority, datetime.now(UTC))
    identity = NodeIdentity(
        node_id=NODE_ID,
        name="n1",
        host_address=ADDRESS,
        cluster_id="c1",
        controllers=controllers,
    )
    directory.identity.write_bytes(identity.encoded())
    return identity


def certify(directory: NodeDirectory, authority: Authority, begins: datetime) -> None:
    """Give the node a key and a certificate that begins then and lasts for 90 days."""
    made = make_request()
    names = node_names("n1", ADDRESS)
    certificate = authority.sign(made.request_pem, common_name=NODE_ID, names=names, now=begins)
    directory.ca.write_text(authority.certificate_pem)
    directory.key.write_text(made.key_pem)
    directory.certificate.write_text(certificate)


def wanted(revision: int, controllers: tuple[str, ...] = (), **values: Any) -> Wanted:
    """Make what a controller would send."""
    node = Node(id=NODE_ID, name="n1", host_address=ADDRESS, fingerprint="f", joined_at=1)
    given: dict[str, Any] = {"cluster_id": "c1", "etcd_urls": (), "node": node, **values}
    return Wanted(revision=revision, controllers=controllers, **given)


class FakeController:
    """Answers agents; `wanted` and `refusal` are what it says, `reports` what it was told."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.authority = authority
        self.port = free_port()
        self.wanted: Wanted | None = None
        self.refusal: tuple[int, str] | None = None
        self.reports: list[NodeReport] = []
        self.asked: list[str] = []
        self.before_certificate: Callable[[], Awaitable[None]] | None = None
        self.signs = authority
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._directory = directory

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{ADDRESS}:{self.port}"

    def say(self, answer: Wanted) -> None:
        """Have another answer from now on."""
        self.wanted = answer
        self._changed.set()

    async def start(self) -> None:
        """Listen."""
        application = web.Application()
        application.router.add_get(f"{PREFIX}/agent/wanted", self._send_wanted)
        application.router.add_post(f"{PREFIX}/agent/report", self._take_report)
        application.router.add_post(f"{PREFIX}/agent/certificate", self._certify)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, ADDRESS, self.port, ssl_context=self._context()).start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _context(self) -> ssl.SSLContext:
        self._directory.mkdir(exist_ok=True)
        made = make_request()
        certificate = self.authority.sign(
            made.request_pem,
            common_name="controller",
            names=node_names("m1", ADDRESS),
            now=datetime.now(UTC),
        )
        paths = [self._directory / name for name in ("ca.crt", "node.crt", "node.key")]
        contents = (self.authority.certificate_pem, certificate, made.key_pem)
        for path, content in zip(paths, contents, strict=True):
            path.write_text(content)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=paths[0])
        context.load_cert_chain(paths[1], paths[2])
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _refused(self) -> web.Response | None:
        if self.refusal is None:
            return None
        status, code = self.refusal
        error = {"code": code, "message": "Not you."}
        return web.json_response({"errors": [error]}, status=status)

    async def _send_wanted(self, request: web.Request) -> web.Response:
        self.asked.append(request.query["after"])
        if refused := self._refused():
            return refused
        after = int(request.query["after"])
        if after and (self.wanted is None or self.wanted.revision == after):
            self._changed.clear()
            try:
                async with asyncio.timeout(20):
                    await self._changed.wait()
            except TimeoutError:
                return web.json_response(None)
        if refused := self._refused():
            return refused
        return web.json_response(self.wanted and self.wanted.model_dump(mode="json"))

    async def _take_report(self, request: web.Request) -> web.Response:
        if refused := self._refused():
            return refused
        self.reports.append(NodeReport.model_validate(await request.json()))
        return web.json_response({})

    async def _certify(self, request: web.Request) -> web.Response:
        if refused := self._refused():
            return refused
        if self.before_certificate is not None:
            await self.before_certificate()
        body = await request.json()
        certificate = self.signs.sign(
            body["csr"],
            common_name=NODE_ID,
            names=node_names("n1", ADDRESS),
            now=datetime.now(UTC),
        )
        return web.json_response({"certificate": certificate})


class WatchedComponent:
    """Remembers what it was given, and does what the test says."""

    def __init__(self, name: str, order: list[str] | None = None) -> None:
        self.name = name
        self.given: list[Wanted] = []
        self.error: BaseException | None = None
        self.hangs = False
        self.answer: JsonValue = None
        self.stops = 0
        self._order = [] if order is None else order

    async def converge(self, wanted: Wanted) -> None:
        """Remember it; hang or raise where told."""
        self.given.append(wanted)
        self._order.append(f"converge {self.name}")
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error

    async def report(self) -> JsonValue:
        """Return what the test says; an exception is raised."""
        if isinstance(self.answer, str) and self.answer == "raise":
            raise SupervisionError("cannot look")
        return self.answer

    async def stop(self) -> None:
        """Count."""
        self.stops += 1
        self._order.append(f"stop {self.name}")
        if self.hangs:
            await asyncio.Event().wait()
