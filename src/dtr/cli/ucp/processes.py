"""`ucp agent` and `ucp controller`: what each process is put together from."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from dtr import __version__
from dtr.cli.context import fail
from dtr.cli.ucp.connection import DATA_DIRECTORY
from dtr.cli.ucp.install import DataDirOption
from dtr.cluster.api import kinds, routes
from dtr.cluster.engines.balancer import BalancerComponent
from dtr.cluster.engines.replica import ReplicaComponent
from dtr.cluster.loop import ClusterLoop
from dtr.server.logs import configure_logging
from dtr.ucp.agent.port import Component, Controllers, NodeDirectory, Supervisor
from dtr.ucp.agent.run import AgentError, run_agent
from dtr.ucp.bootstrap import BootstrapError
from dtr.ucp.controller.component import ControllerComponent
from dtr.ucp.controller.run import ControllerError, run_controller
from dtr.ucp.etcd import EtcdConnection, EtcdMembers
from dtr.ucp.etcd.component import EtcdComponent
from dtr.ucp.etcd.users import EtcdUsers
from dtr.ucp.model import NodeIdentity
from dtr.ucp.store import Loop
from dtr.ucp.voters import VotersLoop

LogFormatOption = Annotated[
    Literal["text", "json"], typer.Option("--log-format", envvar="UCP_LOG_FORMAT")
]
LogLevelOption = Annotated[
    Literal["debug", "info", "warning", "error"],
    typer.Option("--log-level", envvar="UCP_LOG_LEVEL"),
]


def agent(
    data_dir: DataDirOption = DATA_DIRECTORY,
    log_format: LogFormatOption = "text",
    log_level: LogLevelOption = "info",
) -> None:
    """Run this node's agent in the foreground until SIGTERM or Ctrl-C.

    It starts, watches and ends all that the control plane wants on this node, and goes on without
    a control plane by what that said last. The init system keeps it running.
    """
    directory = NodeDirectory(data_dir.absolute())

    def components_of(
        supervisor: Supervisor, controllers: Controllers, identity: NodeIdentity
    ) -> Sequence[Component]:
        return (
            EtcdComponent(directory, identity, supervisor),
            ControllerComponent(directory, supervisor),
            ReplicaComponent(identity, directory, supervisor, controllers),
            BalancerComponent(identity, directory, supervisor, controllers),
        )

    try:
        run_agent(directory, components_of, log_format=log_format, log_level=log_level)
    except AgentError as error:
        fail(str(error))


def controller(
    data_dir: DataDirOption = DATA_DIRECTORY,
    log_format: LogFormatOption = "text",
    log_level: LogLevelOption = "info",
) -> None:
    """Run this node's controller in the foreground; agents of managers do that."""
    configure_logging(log_format, log_level)
    try:
        asyncio.run(
            run_controller(
                NodeDirectory(data_dir.absolute()), loops=_loops, routes=routes(), kinds=kinds()
            )
        )
    except (BootstrapError, ControllerError) as error:
        fail(str(error))


def _loops(connection: EtcdConnection) -> Sequence[Loop]:
    return (
        VotersLoop(EtcdMembers(connection)),
        ClusterLoop(EtcdUsers(connection), version=__version__),
    )
