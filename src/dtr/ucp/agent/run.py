"""The agent's process: one for each data directory, started by the init system or as a container.

SIGTERM ends it in order: the components stop, the last one first, and then it exits with status 0.
"""

import asyncio
import fcntl
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import structlog
from pydantic import ValidationError

from dtr.model.failures import reason_of
from dtr.server.logs import LogFormat, configure_logging
from dtr.ucp.agent.controllers import HttpControllers
from dtr.ucp.agent.files import make_directory
from dtr.ucp.agent.loop import Agent
from dtr.ucp.agent.port import Component, Controllers, NodeDirectory, Supervisor
from dtr.ucp.agent.renewal import settle
from dtr.ucp.agent.supervisor import ProcessSupervisor
from dtr.ucp.model import NodeIdentity

ComponentsOf = Callable[[Supervisor, Controllers, NodeIdentity], Sequence[Component]]

_LOG = structlog.get_logger()
_INIT: Final = 1
_COLLECT_SECONDS: Final = 1


class AgentError(Exception):
    """The agent cannot be started: `what` is the matter, `remedy` what to do about it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what} {remedy}")
        self.what = what
        self.remedy = remedy


def run_agent(
    directory: NodeDirectory,
    components_of: ComponentsOf,
    *,
    log_format: LogFormat = "text",
    log_level: str = "info",
) -> None:
    """Run the agent of a node until SIGTERM or SIGINT; to be called in the main thread.

    Raises:
        AgentError: the directory is no node's, cannot be used, or another agent uses it.

    """
    configure_logging(log_format, log_level)
    identity = read_identity(directory)
    try:
        make_directory(directory.run, mode=0o711)
        with _alone(directory):
            settle(directory)
            asyncio.run(_run(directory, identity, components_of))
    except OSError as error:
        raise AgentError(
            f"The directory {directory.root} cannot be used: {error.strerror or reason_of(error)}.",
            "Run the agent as the user who installed the node, root as a rule.",
        ) from error


def read_identity(directory: NodeDirectory) -> NodeIdentity:
    """Return who this node is.

    Raises:
        AgentError: nobody has told it, or the file is damaged.

    """
    try:
        return NodeIdentity.model_validate_json(directory.identity.read_bytes())
    except FileNotFoundError:
        raise AgentError(
            f"The directory {directory.root} does not belong to a node: there is no "
            f"{directory.identity.name}.",
            "Run 'ucp install' for the first node or 'ucp join' for another, or name the right"
            " directory with --data-dir.",
        ) from None
    except ValidationError:
        raise AgentError(
            f"The file {directory.identity} is damaged.",
            "Restore it from a backup, or remove the node and join it again.",
        ) from None
    except OSError as error:
        raise AgentError(
            f"The file {directory.identity} cannot be read: {error.strerror}.",
            "Run the agent as the user who installed the node, root as a rule.",
        ) from error


async def _run(
    directory: NodeDirectory, identity: NodeIdentity, components_of: ComponentsOf
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    supervisor = ProcessSupervisor(directory)
    controllers = HttpControllers(directory, identity.controllers)
    components = components_of(supervisor, controllers, identity)
    agent = Agent(directory, identity, supervisor, controllers, components)
    collecting = asyncio.create_task(_collect(supervisor), name="collect")
    _LOG.info("the agent runs", node=identity.name, node_id=identity.node_id)
    _notify("READY=1")
    try:
        await agent.run(stop)
    finally:
        collecting.cancel()
    _LOG.info("the agent ends")


async def _collect(supervisor: ProcessSupervisor) -> None:
    while os.getpid() == _INIT:
        supervisor.collect_adopted()
        await asyncio.sleep(_COLLECT_SECONDS)


@contextmanager
def _alone(directory: NodeDirectory) -> Iterator[None]:
    """Hold the data directory; the kernel lets go of it however the agent ends."""
    path = directory.run / "agent.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
            raise AgentError(
                f"Another agent runs with {directory.root} (process {holder}).",
                "Stop that agent first, or let it run: one is enough.",
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def _notify(state: str) -> None:
    """Tell systemd, where it has started us with Type=notify."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        notifier.sendto(state.encode(), address)
