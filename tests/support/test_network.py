"""Packets that vanish, and come back."""

import socket
import subprocess

import pytest
from tests.support.network import packets_dropped

pytestmark = pytest.mark.outage


def test_what_is_cut_off_says_nothing_until_it_is_joined_again() -> None:
    """New connections and old ones wait; neither is refused; no rule is left."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address) as ours, server.accept()[0] as theirs:
            with packets_dropped(address[1]):
                theirs.sendall(b"late")
                ours.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    ours.recv(10)
                with pytest.raises(TimeoutError):
                    socket.create_connection(address, timeout=0.3)
            ours.settimeout(10)
            assert ours.recv(10) == b"late"
    rules = subprocess.run(["iptables", "-S"], check=True, capture_output=True, text=True).stdout
    assert str(address[1]) not in rules
