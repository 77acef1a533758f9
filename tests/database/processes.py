"""Another process that has a database locked."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement)
print("held", flush=True)
sys.stdin.readline()
"""


@contextmanager
def another_process(path: Path, *statements: str) -> Iterator["subprocess.Popen[str]"]:
    """Have another process run statements and keep what they locked, until it is let go."""
    command = [sys.executable, "-c", _HOLDER, str(path), *statements]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def let_go(process: "subprocess.Popen[str]", seconds: float) -> None:
    """Have the other process end after a while."""
    threading.Timer(seconds, process.kill).start()
