"""Packets that vanish: a server is there, and nothing reaches it, nor comes back from it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import requires, requires_root

_PREFIX = "DTR-TEST-"


@contextmanager
def packets_dropped(port: int) -> Iterator[None]:
    """Drop all packets from and to a TCP port on loopback until the end, without a word.

    The rules stand in a chain of this process; a chain whose process died is removed first.
    """
    requires("iptables")
    requires_root("iptables")
    remove_stale_chains()
    chain = f"{_PREFIX}{os.getpid()}"
    _iptables("--new-chain", chain)
    try:
        for side in ("--dport", "--sport"):
            _iptables("--append", chain, "--protocol", "tcp", side, str(port), "--jump", "DROP")
        _iptables("--insert", "INPUT", "--in-interface", "lo", "--jump", chain)
        yield
    finally:
        _remove(chain)


def remove_stale_chains() -> None:
    """Remove what tests left that were killed while packets vanished."""
    for line in _iptables("--list-rules").splitlines():
        words = line.split()
        if words[0] == "-N" and words[1].startswith(_PREFIX):
            pid = words[1].removeprefix(_PREFIX)
            if not Path(f"/proc/{pid}").exists():
                _remove(words[1])


def _remove(chain: str) -> None:
    jump = ("INPUT", "--in-interface", "lo", "--jump", chain)
    if chain in _iptables("--list-rules", "INPUT"):
        _iptables("--delete", *jump)
    _iptables("--flush", chain)
    _iptables("--delete-chain", chain)


def _iptables(*arguments: str) -> str:
    return subprocess.run(
        [requires("iptables"), "--wait", *arguments], check=True, capture_output=True, text=True
    ).stdout
