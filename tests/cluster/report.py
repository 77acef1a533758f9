"""The table of what machines went through, and what clients noticed."""

from dataclasses import dataclass

from tests.cluster.watch import Watch
from tests.outages.report import line
from tests.support.processes import ROOT

REPORT = ROOT / "results" / "machines.md"
_HEADINGS = (
    *("what happened", "writes stopped", "reads stopped", "whole again after"),
    *("longest wait: push", "pull", "pushes", "repeated", "failed"),
    *("pulls", "repeated", "failed", "lost", "second primaries"),
)


@dataclass(frozen=True)
class Row:
    """What one scenario came to."""

    name: str
    watch: Watch
    survivors: list[str]
    """Those whose readers count."""
    healed_seconds: float
    lost: int

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as the table has it."""
        load = self.watch.load
        pushes, pulls = load.pushes, load.pulls
        again = load.failed_again
        return (
            self.name,
            f"{self.watch.write_gap:.1f} s",
            f"{self.watch.read_gap(self.survivors):.1f} s",
            f"{self.healed_seconds:.0f} s",
            *(f"{record.longest_wait:.1f} s" for record in (pushes, pulls)),
            *(str(pushes.done), str(len(pushes.failures))),
            str(sum(each.startswith("push") for each in again)),
            *(str(pulls.done), str(len(pulls.failures))),
            str(sum(each.startswith("pull") for each in again)),
            *(str(self.lost), str(len(self.watch.history.second_primaries()))),
        )

    def write(self) -> None:
        """Print the row, and put it into the report in place of the same scenario's last."""
        head = line(_HEADINGS) + line(["---"] * len(_HEADINGS))
        print("\n" + head + line(self.cells))
        for record in (self.watch.load.pushes, self.watch.load.pulls):
            print(f"slowest: {record.slowest}; given up once: {record.failures}")
        rows = REPORT.read_text().splitlines(keepends=True)[2:] if REPORT.exists() else []
        rows = [row for row in rows if not row.startswith(f"| {self.name} |")]
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.write_text(head + "".join([*rows, line(self.cells)]))
