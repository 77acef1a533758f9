"""Memory and processor time of a process tree, read from /proc."""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

PROC = Path("/proc")
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SAMPLE_SECONDS = 0.1
SAMPLES_PER_DISCOVERY = 10  # listing all of /proc costs more than reading a few known processes


@dataclass(frozen=True)
class Usage:
    """What one measurement cost a contender. Seconds, bytes."""

    seconds: float
    cpu_seconds: float
    peak_rss: int
    foreign_cpu_seconds: float
    """Time that neither the contender nor the load generator spent: noise from others."""


def tree(root: int) -> list[int]:
    """Return `root` and every process that descends from it or lives in its session."""
    parents: dict[int, int] = {}
    members = {root}
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        fields = _stat(int(entry.name))
        if fields:
            parents[int(entry.name)] = int(fields[1])
            if int(fields[3]) == root:
                members.add(int(entry.name))
    grew = True
    while grew:
        children = {pid for pid, parent in parents.items() if parent in members} - members
        members |= children
        grew = bool(children)
    return sorted(pid for pid in members if pid in parents)


def started(pid: int) -> str:
    """Return when a process began, in ticks: with its number it names one process for ever."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def rss(pids: list[int]) -> int:
    """Return the sum of the resident sets. Pages that processes share count for each."""
    total = 0
    for pid in pids:
        try:
            total += int((PROC / str(pid) / "statm").read_text().split()[1]) * PAGE
        except (OSError, IndexError):
            continue  # it ended meanwhile
    return total


def pss(pids: list[int]) -> int:
    """Return the sum of the proportional set sizes: shared pages count once."""
    total = 0
    for pid in pids:
        try:
            lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def cpu_seconds(pids: list[int]) -> float:
    """Return user and system time of the processes and of the children they reaped."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        if fields:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICK


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on, or nothing if it ended."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def _machine_busy_seconds() -> float:
    """Return user, nice, system and stolen time of all processors; interrupts belong to nobody."""
    fields = (PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, steal = (int(fields[index]) for index in (0, 1, 2, 7))
    return (user + nice + system + steal) / TICK


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Meter:
    """Watches the tree of `root` while the `with` block runs; `usage` is set at its end."""

    usage: Usage

    def __init__(self, root: int) -> None:
        self._root = root
        self._peak = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="meter", daemon=True)

    def __enter__(self) -> Self:
        self._cpu = cpu_seconds(tree(self._root))
        self._busy, self._own = _machine_busy_seconds(), _own_seconds()
        self._start = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        seconds = time.perf_counter() - self._start
        self._end.set()
        self._thread.join()
        cpu = cpu_seconds(tree(self._root)) - self._cpu
        busy = _machine_busy_seconds() - self._busy
        foreign = max(0.0, busy - cpu - (_own_seconds() - self._own))
        self.usage = Usage(seconds, cpu, self._peak, foreign)

    def _sample(self) -> None:
        pids: list[int] = []
        for count in range(1 << 62):
            if count % SAMPLES_PER_DISCOVERY == 0:
                pids = tree(self._root)
            self._peak = max(self._peak, rss(pids))
            if self._end.wait(SAMPLE_SECONDS):
                return
