"""The demonstration as one picture in a terminal: steps, clients, and the status beside them."""

from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from tests.outages.docker import Record

from demo.stage import Stage, Step


class Picture:
    """Drawn anew several times a second by `rich.live.Live`."""

    def __init__(self) -> None:
        self.stage: Stage | None = None

    def __rich__(self) -> RenderableType:
        if self.stage is None:
            return Panel("three machines and a balancer are made …", title="DTR")
        layout = Layout()
        layout.split_column(
            Layout(Panel(_steps(self.stage.steps), title="what happens"), ratio=3),
            Layout(Panel(Text.from_ansi(self.stage.status), title="dtr status"), ratio=3),
            Layout(Panel(_clients(self.stage), title="clients of the balancer"), size=6),
        )
        return layout


def _steps(steps: list[Step]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="bold")
    table.add_column()
    for step in steps:
        is_running = step.seconds is None
        title = f"{step.title}  {step.note}".rstrip()
        style = "yellow" if is_running else "green"
        table.add_row(Text(f"{step.elapsed:.1f} s", style), Text(title))
    return table


def _clients(stage: Stage) -> RenderableType:
    table = Table.grid(padding=(0, 4))
    for name, record in (("pushes", stage.load.pushes), ("pulls", stage.load.pulls)):
        table.add_row(name, *_counts(record))
    failed = Text(
        f"failed: {len(stage.load.failed_again)}", "red" if stage.load.failed_again else ""
    )
    return Group(table, failed)


def _counts(record: Record) -> tuple[str, str, str]:
    return (
        f"{record.done} done",
        f"{len(record.failures)} repeated",
        f"longest wait {record.longest_wait:.1f} s",
    )
