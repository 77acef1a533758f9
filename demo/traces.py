"""Whether a demonstration has left nothing behind."""

import os
from pathlib import Path
from typing import Final

from tests.support.machines import Machine, Process

_DEAD: Final = {"Z", "X", ""}


class Traces:
    """What a run has made on this computer, to be looked for when all should be gone."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: dict[int, Process] = {}

    def note(self, machines: list[Machine]) -> None:
        """Remember what runs on the machines."""
        for machine in machines:
            self._processes |= {each.pid: each for each in machine.processes()}

    def left(self) -> list[str]:
        """Say what is still there: namespaces, processes, mounts."""
        namespaces = Path("/run/netns").glob(f"dtr-{os.getpid()}-*")
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return [
            *(f"the network namespace {path.name}" for path in namespaces),
            *(f"the mount {line.split()[1]}" for line in mounts if str(self._directory) in line),
            *(f"the process {pid}" for pid, each in self._processes.items() if _runs(each)),
        ]


def _runs(process: Process) -> bool:
    """Tell whether it is alive; another one may have its number by now."""
    if process.state in _DEAD:
        return False
    try:
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return False
    return b" ".join(words).decode(errors="replace") + " " == process.command
