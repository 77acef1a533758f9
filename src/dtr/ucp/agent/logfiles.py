"""The log of a process: a file that it appends to, kept small by whoever started it.

A file and not a pipe, because PostgreSQL inherits Patroni's and outlives both Patroni and the
agent. They hold the file open, so it is not renamed but copied and emptied; what is written between
the two is lost, a moment's lines in many mebibytes.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_COPY_BYTES: Final = 1 << 20
_TAIL_BYTES: Final = 4096
_LINE_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True)
class LogFile:
    """`path`, and `path.1` to `path.N` of earlier; all together no more than `N + 1` maxima.

    More than that for as long as it takes until `rotate` is called again.
    """

    path: Path
    max_bytes: int = 8 << 20
    kept: int = 3

    def open(self) -> int:
        """Return a descriptor that appends; the file is the agent's own (0600)."""
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def size(self) -> int:
        """Return how much has been written since the file was last emptied."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def is_full(self) -> bool:
        """Tell whether it is time to rotate."""
        return self.size() > self.max_bytes

    def rotate(self) -> None:
        """Put the newest bytes aside and empty the file; may take as long as copying takes.

        Raises:
            OSError: no room to copy to; the file has been emptied nevertheless.

        """
        for number in range(self.kept - 1, 0, -1):
            if (older := self._numbered(number)).exists():
                older.replace(self._numbered(number + 1))
        try:
            self._copy_end(self._numbered(1))
        finally:
            os.truncate(self.path, 0)

    def last_line(self, after: int = 0) -> str:
        """Return the last line with anything in it, shortened, for a report.

        Only of what was written after the file had `after` bytes.
        """
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                start = after if after <= size else 0  # it was emptied since
                file.seek(max(start, size - _TAIL_BYTES))
                text = file.read(_TAIL_BYTES).decode(errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        line = "".join(c if c.isprintable() else " " for c in lines[-1]) if lines else ""
        return line if len(line) <= _LINE_CHARACTERS else line[:_LINE_CHARACTERS] + "…"

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _copy_end(self, target: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with self.path.open("rb") as source, os.fdopen(os.open(target, flags, 0o600), "wb") as copy:
            left = min(self.max_bytes, source.seek(0, os.SEEK_END))
            source.seek(-left, os.SEEK_END)
            while left > 0 and (chunk := source.read(min(left, _COPY_BYTES))):
                copy.write(chunk)
                left -= len(chunk)
