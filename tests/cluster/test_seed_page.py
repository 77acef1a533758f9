"""The page "Scale your deployment", typed at a terminal of a machine as it has it.

Its commands begin with `docker run -it --rm docker/dtr`; here the program is installed.
"""

import io
import re
from collections.abc import Mapping

import pexpect
import pytest
from tests.cluster.cluster import PASSWORD, USERNAME, RunningCluster
from tests.cluster.watch import ACCOUNT
from tests.outages.docker import Docker, Record
from tests.support.machines import Machine

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

_PROMPT = re.compile(r"(?im)^\W*(existing-replica-id|replica-id|ucp-username|ucp-password)\b.*: ")


def _type(machine: Machine, command: str, answers: Mapping[str, str]) -> tuple[list[str], str]:
    """Type a command and answer its questions; give what it asked for, and all that was shown."""
    terminal = machine.type(command.split(), seconds=300)
    terminal.logfile_read = shown = io.StringIO()
    asked = []
    while terminal.expect([_PROMPT, pexpect.EOF]) == 0:
        assert isinstance(terminal.match, re.Match)
        asked.append(terminal.match.group(1).lower())
        terminal.sendline(answers[asked[-1]])
    terminal.close()
    assert terminal.exitstatus == 0, shown.getvalue()
    return asked, shown.getvalue()


def test_remove_and_join_as_the_page_has_them(cluster: RunningCluster) -> None:
    """It prompts for what the page says; the others go on, and the balancer's pool follows."""
    cluster.until_whole()
    leaving, *others = cluster.standbys()
    replicas, here = cluster.replicas, cluster.machines[others[0]]
    answers = {
        "existing-replica-id": replicas[others[0]],
        "replica-id": replicas[leaving],
        "ucp-username": USERNAME,
        "ucp-password": PASSWORD,
    }
    asked, shown = _type(here, "dtr remove --ucp-insecure-tls", answers)
    assert sorted(asked) == sorted(answers)
    assert PASSWORD not in shown
    assert leaving not in cluster.replicas
    assert replicas[leaving] not in cluster.pool()
    cluster.until_whole()

    command = f"dtr join --ucp-node {leaving} --ucp-insecure-tls"
    asked, shown = _type(here, command, answers)
    assert sorted(asked) == ["existing-replica-id", "ucp-password", "ucp-username"]
    assert PASSWORD not in shown
    cluster.until_whole()
    assert cluster.replicas[leaving] not in replicas.values(), "ids are never used again"
    assert sorted(cluster.pool()) == sorted(cluster.replicas.values())
    cluster.client.call(_log_in(cluster, leaving))


async def _log_in(cluster: RunningCluster, name: str) -> None:
    """Log in to the replica of one machine, which knows the cluster's accounts."""
    docker = Docker(cluster.url_of(name), ACCOUNT, Record(), cluster.http)
    await docker._login(f"{USERNAME}/any")
    await docker.close()
