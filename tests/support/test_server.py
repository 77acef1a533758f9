"""The server that suites start: its life cycle is what they build on."""

from pathlib import Path

import httpx
import pytest
from tests.support.processes import group_exists
from tests.support.server import RunningServer

pytestmark = pytest.mark.server


def status(server: RunningServer, account: tuple[str, str]) -> int:
    """Give the status of the registry's base for an account."""
    return httpx.get(f"{server.url}/v2/", auth=account, trust_env=False).status_code


def test_a_server_keeps_its_accounts_whatever_ends_it(tmp_path: Path) -> None:
    """Users outlive a stop, a restart and a kill; nothing of the server's processes does."""
    with RunningServer(tmp_path) as server:
        alice = server.add_user("alice", "a long enough password")
        assert status(server, alice) == 200
        assert status(server, server.admin) == 200
        assert status(server, ("alice", "a wrong password")) == 401
        server.restart()
        assert status(server, alice) == 200
        killed = server.pid
        server.kill()
        assert not group_exists(killed)
        assert not server.is_ready
        server.start()
        assert status(server, alice) == 200
        last = server.pid
        assert server.stop() == 0
    assert not group_exists(last)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The end of its log is in the error."""
    server = RunningServer(tmp_path, options=["--no-such-option"])
    with pytest.raises(RuntimeError, match="no-such-option"):
        server.start()
    assert not server.is_running


def test_a_failed_command_says_why(tmp_path: Path) -> None:
    """Both outputs of `dtr` are in the error."""
    with (
        RunningServer(tmp_path) as server,
        pytest.raises(RuntimeError, match="exit status"),
    ):
        server.add_user("alice", "short")
