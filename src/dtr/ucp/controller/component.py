"""The agent's component that runs a controller on managers."""

import hashlib
import ssl
import sys
from typing import TYPE_CHECKING, Final

import aiohttp
from pydantic import JsonValue

from dtr.ucp.agent.port import Component, NodeDirectory, ProcessSpecification, Supervisor
from dtr.ucp.etcd.component import client_files
from dtr.ucp.model import ControllerWanted, Wanted
from dtr.ucp.wanted import authority

NAME: Final = "controller"
_PING_SECONDS: Final = 4.0
_STOP_SECONDS: Final = 10.0
# A password is checked in 19 MiB. Without this glibc learns from the first to keep so much for the
# next ones, once in each thread, for ever.
_ENVIRONMENT: Final = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}


class ControllerComponent:
    """Keeps a controller running where one is wanted.

    The controller runs as the agent's own user: it reads the node's key, the authority's in
    `wanted.json`, and what etcd is asked with. It takes
    a renewed certificate and other members of etcd without a restart; another port or password
    restarts it.
    """

    def __init__(self, directory: NodeDirectory, supervisor: Supervisor) -> None:
        self._directory = directory
        self._supervisor = supervisor

    @property
    def name(self) -> str:
        """For the log and the report."""
        return NAME

    async def converge(self, wanted: Wanted) -> None:
        """Run the controller, or end it where this node is no manager any more."""
        if wanted.controller is None:
            await self._supervisor.remove(NAME)
            return
        if not client_files(self._directory).key.exists():
            return  # the component of etcd writes what the controller asks it with
        await self._supervisor.ensure(self._specification(wanted, wanted.controller))

    async def report(self) -> JsonValue:
        """Tell nothing: how the process is stands in the node's report."""
        return None

    async def stop(self) -> None:
        """End the controller."""
        await self._supervisor.remove(NAME)

    def _specification(self, wanted: Wanted, controller: ControllerWanted) -> ProcessSpecification:
        url = f"https://{authority(wanted.node.host_address, controller.port)}/_ping"

        async def is_ready() -> bool:
            return await _answers(url, str(self._directory.ca))

        return ProcessSpecification(
            name=NAME,
            command=controller_command(self._directory),
            may_bind_low_ports=True,
            environment=_ENVIRONMENT,
            restart_key=hashlib.sha256(controller.encoded()).hexdigest(),
            stop_seconds=_STOP_SECONDS,
            is_ready=is_ready,
        )


def controller_command(directory: NodeDirectory) -> tuple[str, ...]:
    """Return the command that runs the controller of a node, with this Python."""
    return (
        sys.executable,
        "-m",
        "dtr.cli.ucp",
        "controller",
        "--data-dir",
        str(directory.root),
    )


async def _answers(url: str, ca: str) -> bool:
    """Tell whether it serves; without a majority of etcd it does, and says so."""
    try:
        context = ssl.create_default_context(cafile=ca)
        timeout = aiohttp.ClientTimeout(total=_PING_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, ssl=context) as response,
        ):
            return response.status in {200, 503}
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


if TYPE_CHECKING:
    _: type[Component] = ControllerComponent
