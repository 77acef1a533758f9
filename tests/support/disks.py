"""The disk of a machine: a directory, or a file system of its own that can fill up and stall."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.support.processes import requires

_FILLER = "filler"


class Disk:
    """A directory; with a size, an ext4 file system in a sparse file."""

    def __init__(self, directory: Path, size_bytes: int = 0) -> None:
        self.path = directory / "disk"
        self._image = directory / "disk.image"
        self._size_bytes = size_bytes
        self._is_stalled = False

    def open(self) -> None:
        """Make it; skips the test where file systems cannot be mounted from files."""
        self.path.mkdir(parents=True)
        if self._size_bytes:
            with self._image.open("wb") as file:
                file.truncate(self._size_bytes)
            _run("mkfs.ext4", "-q", "-m", "0", str(self._image))
            mount = ["mount", "-o", "loop", str(self._image), str(self.path)]
            done = subprocess.run(mount, check=False, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no loop devices on this machine: {done.stderr.strip()}")
            (self.path / "lost+found").rmdir()

    def fill(self) -> None:
        """Leave no byte free."""
        self._require_size()
        free = shutil.disk_usage(self.path).free
        filler = self.path / _FILLER
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(1, free - (1 << 20)))
            # The rest goes block by block: the file system takes some for itself.
            file.seek(0, os.SEEK_END)
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        """Undo `fill`."""
        (self.path / _FILLER).unlink()

    def stall(self) -> None:
        """Let every write wait, as on a disk that does not answer."""
        self._require_size()
        if not self._is_stalled:
            self._is_stalled = True
            _run("fsfreeze", "--freeze", str(self.path))

    def go_on(self) -> None:
        """Undo `stall`; idempotent."""
        if self._is_stalled:
            self._is_stalled = False
            _run("fsfreeze", "--unfreeze", str(self.path))

    @contextmanager
    def slow(self, *, stalls: float = 0.5, goes_on: float = 0.05) -> Iterator[None]:
        """Stall again and again, for so many seconds each."""
        self._require_size()
        ending = threading.Event()

        def stall_and_go_on() -> None:
            while not ending.is_set():
                self.stall()
                ending.wait(stalls)
                self.go_on()
                ending.wait(goes_on)

        thread = threading.Thread(target=stall_and_go_on)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()

    def close(self) -> None:
        """Take it out; nothing may use it any more."""
        self.go_on()
        if self.path.is_mount():
            _run("umount", str(self.path))
        self._image.unlink(missing_ok=True)

    def _require_size(self) -> None:
        if not self._size_bytes:
            raise RuntimeError(f"{self.path} is a mere directory: give the machines disks")


def _run(program: str, *arguments: str) -> str:
    return subprocess.run(
        [requires(program), *arguments], check=True, capture_output=True, text=True
    ).stdout
