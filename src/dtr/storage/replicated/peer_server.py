"""The peer endpoint: what a replica does for the others with the bytes on its own disk.

    PUT    /peer/v1/uploads/NAME        add bytes at an offset; then perhaps flush or commit
    GET    /peer/v1/uploads/NAME        staged bytes, of a range
    DELETE /peer/v1/uploads/NAME        forget what one writer staged; with an upload's id, all
    GET    /peer/v1/blobs/KEY           bytes, whole or of a range; HEAD: their size
    PUT    /peer/v1/blobs/KEY?size=N&digest=D    take a copy over, verified
    DELETE /peer/v1/blobs/KEY
    GET    /peer/v1/blobs?after=KEY     a page of what is on this disk
    GET    /peer/v1/check               answer

Whoever asks has shown a certificate of the authority in the TLS handshake, and is let in as long as
the members file names its node: who is removed from it is out with the next request.

A member is not believed either: bytes come under a key only if they have the digest that the key
says, whatever the request says of them, and what was acknowledged under a name is changed by none.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext

import structlog
from aiohttp import web

from dtr.model.errors import (
    ContentDamagedError,
    InvalidError,
    RegistryError,
)
from dtr.model.members import MembersFile
from dtr.storage.filesystem import FilesystemBlobStore
from dtr.storage.port import CHUNK_BYTES
from dtr.storage.replicated.listing import page_of
from dtr.storage.replicated.names import StagedName, checked_key, checked_upload, digest_for
from dtr.storage.replicated.protocol import (
    ERROR,
    FREE,
    MOST_BYTES,
    ROOT,
    STATUSES,
    Addition,
    number,
)
from dtr.storage.replicated.sessions import Sessions
from dtr.storage.replicated.trust import common_name, server_contexts
from dtr.storage.replication import Credentials

_LOG = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
During = Callable[[str, int], AbstractContextManager[None]]
"""Tells that the client at an address has a request at work, for as long as it is entered."""

_NOBODY_THERE = 499
_IDLE_SECONDS = 120.0
_TEND_SECONDS = 5.0
_SHUTDOWN_SECONDS = 5.0


class PeerServer:
    """Serves `local` to the other members; `start` and `stop` in the loop that it runs in.

    Whoever bounds its connections is told of requests by `during`.
    """

    def __init__(
        self,
        local: FilesystemBlobStore,
        members: MembersFile,
        credentials: Credentials,
        during: During = lambda _host, _port: nullcontext(),
    ) -> None:
        self._during = during
        self._local = local
        self._members = members
        self._contexts = server_contexts(credentials)
        self._uploads = Sessions(local, believes=False)
        self._runner: web.AppRunner | None = None
        self._tending: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen; returns when others can connect.

        Raises:
            InvalidError: the certificate cannot be read.
            OSError: the address cannot be listened on.

        """
        application = web.Application(
            middlewares=[self._admit], client_max_size=MOST_BYTES + CHUNK_BYTES
        )
        application.add_routes(
            [
                web.put(f"{ROOT}/uploads/{{name}}", self._add),
                web.get(f"{ROOT}/uploads/{{name}}", self._staged),
                web.delete(f"{ROOT}/uploads/{{name}}", self._forget),
                web.get(f"{ROOT}/blobs", self._list),
                web.get(f"{ROOT}/blobs/{{key:.+}}", self._blob),
                web.put(f"{ROOT}/blobs/{{key:.+}}", self._adopt),
                web.delete(f"{ROOT}/blobs/{{key:.+}}", self._delete),
                web.get(f"{ROOT}/check", self._check),
            ]
        )
        self._runner = web.AppRunner(
            application, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await self._runner.setup()
        context = self._contexts.following()
        await web.TCPSite(self._runner, host, port, ssl_context=context, backlog=512).start()
        self._tending = asyncio.create_task(self._tend(), name="peer endpoint")

    async def serve_until(self, stop: asyncio.Event, *others: asyncio.Task[None]) -> None:
        """Wait for `stop`.

        Raises:
            Exception: what tends the endpoint failed, or one of `others`, so that it would go on by
                half.

        """
        stopping = asyncio.create_task(stop.wait())
        tending = [*([self._tending] if self._tending is not None else []), *others]
        await asyncio.wait([stopping, *tending], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in tending:
            if task.done():
                task.result()

    async def stop(self) -> None:
        """Let go of connections and of uploads that are on their way."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
        await self._uploads.close_idle(0)

    async def _tend(self) -> None:
        """Take new certificates, and let go of uploads that nobody continues."""
        while True:
            await asyncio.sleep(_TEND_SECONDS)
            self._contexts.current()
            await self._uploads.close_idle(_IDLE_SECONDS)

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let members in, and say errors by their names."""
        transport = request.transport
        peer = transport.get_extra_info("peername") if transport else None
        host, port = peer[:2] if peer else ("", 0)
        with self._during(host, port):
            return await self._answer(request, handler)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        name = common_name(transport.get_extra_info("peercert") if transport else None)
        if name not in {member.node_id for member in self._members.read().members}:
            _LOG.warning("a stranger asked for blobs", node=name, address=request.remote)
            return web.Response(status=403, text="this node is not a member of the cluster")
        try:
            response = await handler(request)
        except RegistryError as error:
            kind = next((each for each in type(error).__mro__ if each in STATUSES), InvalidError)
            response = web.Response(status=STATUSES[kind], text=str(error))
            response.headers[ERROR] = kind.__name__
        except ConnectionResetError:
            # Whoever asked gave up, or died; nobody reads the answer, and nothing failed here.
            return web.Response(status=_NOBODY_THERE)
        if not response.prepared:
            response.headers[FREE] = str(self._local.free_bytes())
        return response

    async def _check(self, _request: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _add(self, request: web.Request) -> web.Response:
        name = StagedName.parse(request.match_info["name"])
        addition = Addition.parse(request.query)
        content = await request.read()
        return web.json_response(await self._uploads.add(name, addition, content))

    async def _staged(self, request: web.Request) -> web.Response:
        name = StagedName.parse(request.match_info["name"])
        start, stop = number(request.query.get("start", "")), number(request.query.get("stop", ""))
        if stop - start > MOST_BYTES:
            raise InvalidError(f"more than {MOST_BYTES} bytes at once")
        return web.Response(body=await self._uploads.read(name, start, stop))

    async def _forget(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if "." in name:
            await self._uploads.forget(StagedName.parse(name))
        else:
            await self._uploads.forget_all(checked_upload(name))
        return web.Response(status=204)

    async def _list(self, request: web.Request) -> web.Response:
        found = await page_of(self._local, request.query.get("after", ""))
        return web.json_response(
            [[each.key, each.size, each.modified_at, each.upload_id] for each in found]
        )

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        path = self._local.path(checked_key(request.match_info["key"]))
        if await self._local.size(checked_key(request.match_info["key"])) is None:
            raise ContentDamagedError("stored content is missing")
        return web.FileResponse(path, chunk_size=CHUNK_BYTES)

    async def _adopt(self, request: web.Request) -> web.Response:
        key, size = checked_key(request.match_info["key"]), number(request.query.get("size", ""))
        digest = digest_for(key, request.query.get("digest"))
        stream = request.content.iter_chunked(CHUNK_BYTES)
        self._local.check_bytes(size)
        await self._local.adopt(key, stream, size, digest)
        return web.Response(status=204)

    async def _delete(self, request: web.Request) -> web.Response:
        await self._local.delete(checked_key(request.match_info["key"]))
        return web.Response(status=204)
