"""What a manager's controller is put together from."""

import asyncio
from collections.abc import Sequence

from dtr import __version__
from dtr.cli.terminal import fail
from dtr.cluster.api import kinds, routes
from dtr.cluster.loop import ClusterLoop
from dtr.server.logs import LogFormat, configure_logging
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.bootstrap import BootstrapError
from dtr.ucp.controller.run import ControllerError, run_controller
from dtr.ucp.etcd import EtcdConnection, EtcdMembers
from dtr.ucp.etcd.users import EtcdUsers
from dtr.ucp.keys_loop import KeysLoop
from dtr.ucp.store import Loop
from dtr.ucp.voters import VotersLoop


def run(directory: NodeDirectory, *, log_format: LogFormat, log_level: str) -> None:
    """Run the controller until it is told to end; what keeps it from starting is one sentence."""
    configure_logging(log_format, log_level)
    try:
        asyncio.run(run_controller(directory, loops=_loops, routes=routes(), kinds=kinds()))
    except (BootstrapError, ControllerError) as error:
        fail(str(error))


def _loops(connection: EtcdConnection) -> Sequence[Loop]:
    return (
        VotersLoop(EtcdMembers(connection)),
        KeysLoop(EtcdMembers(connection)),
        ClusterLoop(EtcdUsers(connection), version=__version__),
    )
