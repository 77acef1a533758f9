"""Connections need open files: no more are taken than can be opened."""

import resource
import subprocess
import sys

import pytest

SCRIPT = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from dtr.server.open_files import allow_open_files, most_connections
allow_open_files(4096)
print("limit", resource.getrlimit(resource.RLIMIT_NOFILE)[0], "most", most_connections(4096))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "limit", "most", "is_warned"),
    [
        (256, 1024, 1024, 512, True),
        (256, 256, 256, 64, True),
        (1024, 6000, 6000, 4096, False),
    ],
)
def test_as_many_connections_as_files(
    soft: int, hard: int, limit: int, most: int, *, is_warned: bool
) -> None:
    """The limit is raised as far as possible, and a warning says where that is not enough."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("this machine allows fewer open files")
    done = subprocess.run(
        (sys.executable, "-c", SCRIPT.format(soft=soft, hard=hard)),
        check=True,
        capture_output=True,
        text=True,
    )
    assert f"limit {limit} most {most}" in done.stdout
    assert ("ulimit -n" in done.stdout + done.stderr) == is_warned
