"""The network test of one node: ports that it opens, addresses that it reaches."""

import asyncio
import socket

from tests.support.processes import free_port
from tests.ucp.agent.conftest import until

from dtr.ucp.agent.probe import Prober
from dtr.ucp.model import Probe


def is_open(port: int) -> bool:
    """Tell whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_ports_are_open_while_the_probe_lasts_and_closed_after() -> None:
    """One that is taken is a problem."""
    port = free_port()
    prober = Prober(connect_seconds=0.3)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken_port = taken.getsockname()[1]
        prober.want(Probe(id="p", listen=(port, taken_port, 70000)))
        await until(lambda: prober.report is not None, "the report")
    assert prober.report is not None
    assert prober.report.listening[port] == ""
    assert "cannot be listened on" in prober.report.listening[taken_port]
    assert "cannot be listened on" in prober.report.listening[70000]
    assert is_open(port)
    prober.want(None)
    await until(lambda: not is_open(port), "a closed port")
    await prober.close()


async def test_each_address_is_answered_for_and_one_that_is_late_is_waited_for() -> None:
    """Agents do not begin at the same moment."""
    prober = Prober(connect_seconds=1.5)
    late, dead = free_port(), free_port()
    addresses = (f"127.0.0.1:{late}", f"127.0.0.1:{dead}", "nonsense", "[::1]:x")
    prober.want(Probe(id="p", connect=addresses))
    await asyncio.sleep(0.3)
    with socket.create_server(("127.0.0.1", late)):
        await until(lambda: prober.report is not None, "the report")
    await prober.close()
    assert prober.report is not None
    assert prober.report.connected == {
        addresses[0]: "",
        addresses[1]: prober.report.connected[addresses[1]],
        "nonsense": "nonsense is not ADDRESS:PORT",
        "[::1]:x": "[::1]:x is not ADDRESS:PORT",
    }
    assert f"127.0.0.1:{dead} cannot be reached" in prober.report.connected[addresses[1]]


async def test_a_probe_is_carried_out_once_and_bounded() -> None:
    """However often it is asked for, and whatever it asks for."""
    prober = Prober(connect_seconds=0.1)
    probe = Probe(id="p", connect=tuple(f"x{number}" for number in range(100)))
    prober.want(probe)
    await until(lambda: prober.report is not None, "the report")
    report = prober.report
    assert report is not None
    assert len(report.connected) == 64
    prober.want(probe)
    prober.want(None)
    assert prober.report is report
    prober.want(Probe(id="q"))
    await until(lambda: prober.report is not report, "another report")
    await prober.close()
