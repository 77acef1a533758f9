"""What the figures were measured on."""

import os
import platform
import subprocess
from pathlib import Path


def describe(data_root: Path) -> dict[str, str]:
    """Return the facts about this machine that a reader of the figures needs."""
    return {
        "CPU": _first_value(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "SHA extensions": "yes" if " sha_ni" in _cpu_flags() else "no",
        "memory": f"{_memory_bytes() / 2**30:.1f} GiB",
        "kernel": platform.release(),
        "system": _pretty_name(),
        "data on": filesystem(data_root),
        "Python": platform.python_version(),
        "load generator": f"{wrk_version()}, and this Python",
        "load average at start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def filesystem(path: Path) -> str:
    """Return type, device and mount options of the file system that holds `path`."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        device, mount, kind, options, *_ = line.split(" ")
        if path.resolve().is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, f"{kind} on {device} ({options})")
    return best[1]


def wrk_version() -> str:
    """Return wrk's own name for its version."""
    shown = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    words = (shown.stdout + shown.stderr).split()
    return " ".join(words[:2]) if words else "wrk"


def _first_value(file: Path, key: str) -> str:
    for line in file.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _cpu_flags() -> str:
    return " " + _first_value(Path("/proc/cpuinfo"), "flags") + " "


def _memory_bytes() -> int:
    return int(_first_value(Path("/proc/meminfo"), "MemTotal").split()[0]) * 1024


def _pretty_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()
