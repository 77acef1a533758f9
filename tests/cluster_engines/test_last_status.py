"""The cluster's status is kept on every node, whatever runs there."""

import asyncio
from pathlib import Path

from pydantic import JsonValue

from dtr.cluster.engines.last_status import LastStatus
from dtr.model.errors import UnavailableError
from dtr.ucp.agent.last_known import last_status_file, recall
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.model import Node, Wanted

WANTED = Wanted(
    revision=1,
    cluster_id="cluster",
    node=Node(id="node", name="node1", host_address="10.0.0.1", fingerprint="", joined_at=0),
    controllers=(),
    etcd_urls=(),
)


class Answers:
    """Controllers that answer with what they are told, or not at all."""

    def __init__(self) -> None:
        self.status: JsonValue = None
        self.asked = 0

    async def call(self, method: str, path: str, body: JsonValue = None) -> JsonValue:
        """Answer."""
        assert (method, path, body) == ("GET", "/dtr/status", None)
        self.asked += 1
        if self.status is None:
            raise UnavailableError("No controller answered.")
        return self.status


async def test_it_is_kept_when_a_controller_tells_it(tmp_path: Path) -> None:
    """While none does, what was told last stays; nothing is reported."""
    directory, controllers = NodeDirectory(tmp_path), Answers()
    component = LastStatus(directory, controllers, pause_seconds=0)
    file = last_status_file(directory)

    async def asked_again() -> None:
        before = controllers.asked
        async with asyncio.timeout(30):
            while controllers.asked < before + 2:
                await component.converge(WANTED)
                await asyncio.sleep(0)

    await asked_again()
    assert recall(file) is None
    controllers.status = {"primary": "a"}
    await asked_again()
    controllers.status = None
    await asked_again()
    recalled = recall(file)
    assert recalled is not None
    assert recalled.document == {"primary": "a"}
    assert await component.report() is None
    await component.stop()
    await component.stop()
    asked = controllers.asked
    await asyncio.sleep(0)
    assert controllers.asked == asked
