"""What a node's agent is put together from."""

from collections.abc import Sequence
from functools import partial

from dtr.cli.terminal import fail
from dtr.cluster.engines.balancer import BalancerComponent
from dtr.cluster.engines.last_status import LastStatus
from dtr.cluster.engines.replica import ReplicaComponent
from dtr.server.logs import LogFormat
from dtr.ucp.agent.port import Component, Controllers, NodeDirectory, Supervisor
from dtr.ucp.agent.run import AgentError, run_agent
from dtr.ucp.controller.component import ControllerComponent
from dtr.ucp.etcd.component import EtcdComponent
from dtr.ucp.model import NodeIdentity


def run(directory: NodeDirectory, *, log_format: LogFormat, log_level: str) -> None:
    """Run the agent until it is told to end; what keeps it from starting is one sentence."""
    try:
        run_agent(
            directory, partial(_components, directory), log_format=log_format, log_level=log_level
        )
    except AgentError as error:
        fail(str(error))


def _components(
    directory: NodeDirectory,
    supervisor: Supervisor,
    controllers: Controllers,
    identity: NodeIdentity,
) -> Sequence[Component]:
    return (
        EtcdComponent(directory, identity, supervisor),
        ControllerComponent(directory, supervisor),
        ReplicaComponent(identity, directory, supervisor, controllers),
        BalancerComponent(identity, directory, supervisor, controllers),
        LastStatus(directory, controllers),
    )
