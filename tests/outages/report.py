"""The table of outages: what was struck, how long it lasted, and what clients noticed."""

import threading
from dataclasses import dataclass
from typing import Self

from tests.outages.load import Load
from tests.outages.tags import TagClients
from tests.support.processes import ROOT

REPORT = ROOT / "results" / "outages.md"
_HEADINGS = (
    *("struck", "outage", "longest wait: push", "pull", "raw errors: push", "pull"),
    *("pushes", "failed", "pulls", "failed", "lost", "tag operations", "outcome unknown", "stale"),
)
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Row:
    """What one scenario came to."""

    struck: str
    outage_seconds: float
    load: Load
    tags: TagClients
    lost: int

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as the table has it."""
        pushes, pulls = self.load.pushes, self.load.pulls
        return (
            self.struck,
            f"{self.outage_seconds:.1f} s",
            *(f"{record.longest_wait:.1f} s" for record in (pushes, pulls)),
            *(str(len(record.raw_errors)) for record in (pushes, pulls)),
            *(str(pushes.done), str(len(pushes.failures))),
            *(str(pulls.done), str(len(pulls.failures))),
            str(self.lost),
            *(str(self.tags.operations), str(self.tags.unknown), str(self.tags.stale)),
        )

    def write(self) -> Self:
        """Print the row, and add it to the report; the newest of each scenario stays."""
        print("\n" + line(_HEADINGS) + line(["---"] * len(_HEADINGS)) + line(self.cells))
        with _LOCK:
            rows = REPORT.read_text().splitlines(keepends=True)[2:] if REPORT.exists() else []
            rows = [row for row in rows if not row.startswith(f"| {self.struck} |")]
            REPORT.parent.mkdir(parents=True, exist_ok=True)
            head = line(_HEADINGS) + line(["---"] * len(_HEADINGS))
            REPORT.write_text(head + "".join([*rows, line(self.cells)]))
        return self


def line(cells: tuple[str, ...] | list[str]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cells)} |\n"
