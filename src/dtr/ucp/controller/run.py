"""The controller process: store, API and the loops of whoever leads, put together."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from ipaddress import ip_address
from typing import Any, Final

import structlog
from aiohttp import web
from pydantic import ValidationError

from dtr.asgi.connection_rules import ConnectionLimits
from dtr.asgi.connections import Connections
from dtr.model.errors import UnavailableError
from dtr.ucp.agent.convergence import sentence
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.agreed_time import AgreedTime, ControllerClock
from dtr.ucp.api import ApiRoute, OperationKind
from dtr.ucp.authority import Authority, AuthorityError
from dtr.ucp.bootstrap import BootstrapError, fill_store, forget_bootstrap, read_bootstrap
from dtr.ucp.controller.access import Gate
from dtr.ucp.controller.routes import ucp_routes
from dtr.ucp.controller.server import ApiServer, TlsCertificate
from dtr.ucp.controller.sessions import Administrators
from dtr.ucp.etcd import EtcdConnection, EtcdLogin, EtcdMembers, EtcdStore
from dtr.ucp.etcd.component import client_files
from dtr.ucp.etcd.users import EtcdUsers
from dtr.ucp.leading import Leader
from dtr.ucp.model import ControllerWanted, Wanted
from dtr.ucp.space import SpaceKeeper
from dtr.ucp.store import Loop, Store
from dtr.ucp.wanted import client_url

_LOG = structlog.get_logger()
_SHUTDOWN_SECONDS: Final = 1.0
_REFRESH_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 0.5


class ControllerError(Exception):
    """The controller cannot run; one sentence of what and one of what to do."""


async def run_controller(
    directory: NodeDirectory,
    *,
    loops: Callable[[EtcdConnection], Sequence[Loop]],
    routes: Sequence[ApiRoute] = (),
    kinds: Sequence[OperationKind] = (),
) -> None:
    """Serve the API, campaign, and run the loops while leading; until SIGTERM.

    `loops` are made on the connection that speaks to etcd as root. The renewed certificate and
    other members of etcd are taken from the node's files without a restart.

    Raises:
        ControllerError: the node's files say that no controller runs here, or are damaged.

    """
    stopping = _stop_at_signals()
    wanted, controller = _read_wanted(directory)
    authority = _read_authority(directory, controller)
    login = EtcdLogin(controller.etcd_password)
    connection = EtcdConnection(wanted.etcd_urls, client_files(directory), login)
    store = EtcdStore(connection)
    members = EtcdMembers(connection)
    administrators = Administrators(store)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        stack.callback(administrators.close)
        if not await _begin(directory, store, connection, stopping):
            return
        agreed = AgreedTime()
        clock = ControllerClock(agreed)
        own_routes = ucp_routes(
            authority=authority,
            administrators=administrators,
            members=members,
            kinds=kinds,
            port=controller.port,
            is_time_agreed=lambda: clock.is_agreed,
        )
        connections = Connections(controller.port, ConnectionLimits())
        gate = Gate(store, administrators)
        server = ApiServer(store, gate, [*own_routes, *routes], clock, connections)
        certificate = TlsCertificate(directory.certificate, directory.key, directory.ca)
        runner = await _serve(server, certificate, wanted.node.host_address, controller.port)
        stack.push_async_callback(runner.cleanup)
        _LOG.info("controller serves", address=wanted.node.host_address, port=controller.port)
        leader = Leader(store, wanted.node.id, loops(connection), clock=clock)
        keeper = SpaceKeeper(members, client_url(wanted.node))
        following = _follow_files(directory, certificate, connection)
        timing = (agreed.follow(store), clock.follow(), connections.follow())
        await _run_until(stopping, leader.run(), keeper.run(), following, *timing)
    _LOG.info("controller ended")


async def _begin(
    directory: NodeDirectory, store: Store, connection: EtcdConnection, stopping: asyncio.Event
) -> bool:
    """Fill the store where this is the first controller; False where the process is to end."""
    bootstrap = read_bootstrap(directory.bootstrap)
    if bootstrap is None:
        return True
    members, users = EtcdMembers(connection), EtcdUsers(connection)

    async def member_id_of(node_id: str) -> str:
        found = [member.id for member in await members.list() if member.name == node_id]
        if not found:
            raise BootstrapError(
                "etcd here belongs to another node. Run 'ucp uninstall' and start again."
            )
        return found[0]

    while not stopping.is_set():
        try:
            await fill_store(store, bootstrap, member_id_of, users.enable_authentication)
        except UnavailableError as error:
            _LOG.info("waiting for etcd", error=str(error))
            await _sleep(stopping, _RETRY_SECONDS)
        else:
            forget_bootstrap(directory.bootstrap)
            _LOG.info("the control plane has begun", cluster=bootstrap.cluster.id)
            return True
    return False


async def _serve(
    server: ApiServer, certificate: TlsCertificate, address: str, port: int
) -> web.AppRunner:
    runner = server.runner(shutdown_seconds=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, _bound(address), port, ssl_context=certificate.context)
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise ControllerError(
            f"The controller cannot listen on port {port}: {error.strerror}. Stop what listens "
            "there ('ss -ltnp' shows it)."
        ) from None
    return runner


def _bound(address: str) -> str:
    """Return where to listen: everywhere, but for a node that has a loopback address only.

    >>> _bound("10.0.0.1"), _bound("fd00::1"), _bound("127.0.0.2")
    ('0.0.0.0', '::', '127.0.0.2')
    """
    found = ip_address(address)
    if found.is_loopback:
        return address
    return "::" if found.version == 6 else "0.0.0.0"  # noqa: PLR2004


async def _follow_files(
    directory: NodeDirectory, certificate: TlsCertificate, connection: EtcdConnection
) -> None:
    """Take what the agent writes anew: the certificate, and where etcd's members are."""
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        if certificate.refresh():
            _LOG.info("certificate renewed")
        try:
            wanted, _ = _read_wanted(directory)
        except ControllerError:
            continue  # The agent ends this process when it finds that no controller is wanted.
        connection.use_endpoints(wanted.etcd_urls)


async def _run_until(stopping: asyncio.Event, *works: Coroutine[Any, Any, None]) -> None:
    """Run all until told to stop; if one ends before, the process ends and is started again."""
    tasks = [asyncio.create_task(work) for work in works]
    stop = asyncio.create_task(stopping.wait())
    try:
        done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (*tasks, stop):
            task.cancel()
        await asyncio.gather(*tasks, stop, return_exceptions=True)


def _stop_at_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


async def _sleep(stopping: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return


def _read_wanted(directory: NodeDirectory) -> tuple[Wanted, ControllerWanted]:
    try:
        wanted = Wanted.model_validate_json(directory.wanted.read_bytes())
    except (OSError, ValidationError):
        raise ControllerError(
            f"The file {directory.wanted} cannot be read. Start the node's agent, which writes it "
            "and runs the controller."
        ) from None
    if wanted.controller is None:
        raise ControllerError("This node is not a manager. 'ucp node promote' makes it one.")
    return wanted, wanted.controller


def _read_authority(directory: NodeDirectory, controller: ControllerWanted) -> Authority:
    try:
        return Authority.load(directory.ca.read_text(), controller.ca_key)
    except (OSError, AuthorityError) as error:
        raise ControllerError(
            f"The authority in {directory.ca} cannot be used: {sentence(error)}"
        ) from None
