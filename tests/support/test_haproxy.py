"""The balancer that suites put before servers: who gets which request."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.support.haproxy import RunningHaproxy
from tests.support.processes import wait_until
from tests.support.server import RunningServer

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningServer]]:
    """Give two servers which share nothing, so that their answers tell them apart."""
    directory = tmp_path_factory.mktemp("servers")
    environment = {
        "DTR_SERVER__WORKERS": "1",
        "DTR_AUTH__FAILED_LOGINS_BEFORE_DELAY": "1000",
    }
    with (
        RunningServer(directory / "one", environment=environment) as one,
        RunningServer(directory / "two", environment=environment) as two,
    ):
        one.add_user("alice", "a long enough password")
        yield [one, two]


def statuses(client: httpx.Client, count: int) -> list[int]:
    """Ask as Alice, whom only the first server knows."""
    asked = [client.get("/v2/", auth=("alice", "a long enough password")) for _ in range(count)]
    return [answer.status_code for answer in asked]


@pytest.mark.parametrize("is_tcp", [False, True])
def test_each_request_goes_to_the_next_server(
    servers: list[RunningServer], tmp_path: Path, *, is_tcp: bool
) -> None:
    """Also on one connection, and after a 401; where it only sees connections, each of these."""
    kept = httpx.Limits(max_keepalive_connections=0 if is_tcp else 1)
    with (
        RunningHaproxy(tmp_path, [each.address for each in servers], is_tcp=is_tcp) as balancer,
        httpx.Client(base_url=balancer.url, trust_env=False, limits=kept) as client,
    ):
        assert sorted(statuses(client, 10)) == [200] * 5 + [401] * 5


def test_a_server_that_is_gone_costs_no_request(
    servers: list[RunningServer], tmp_path: Path
) -> None:
    """A refused connection is tried elsewhere; the server gets requests again when it is back."""
    one, two = servers
    with (
        RunningHaproxy(tmp_path, [one.address, two.address]) as balancer,
        httpx.Client(base_url=balancer.url, trust_env=False) as client,
    ):
        two.kill()
        assert statuses(client, 30) == [200] * 30
        counted = balancer.statuses()
        assert counted.keys() == {200}
        assert counted[200] >= 30
        two.start()
        wait_until(lambda: 401 in statuses(client, 2), "the second server answers again")
