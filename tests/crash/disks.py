"""A disk of a size that a test chooses, which can therefore be filled."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.processes import requires_root

_BLOCK = 4096


class SmallDisk:
    """A tmpfs; its files are as real as any other's, and so is its ENOSPC."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    @property
    def free_bytes(self) -> int:
        """What may still be written."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Take all room but `leave_bytes`."""
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while (room := self.free_bytes - leave_bytes) >= _BLOCK:
                file.write(bytes(min(room, 1 << 20)))

    def empty(self) -> None:
        """Give back what `fill` took."""
        self._filler.unlink(missing_ok=True)

    def resize(self, megabytes: int) -> None:
        """Grow or shrink the disk under whoever uses it."""
        _mount("-o", f"remount,size={megabytes}m", self.path)


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount a disk of that size at `path`, or skip the test where that is not possible."""
    requires_root("mounting a small disk")
    path.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", path)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True, capture_output=True)


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
