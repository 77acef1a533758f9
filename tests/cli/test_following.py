"""What a command shows of an operation while it runs."""

import os
import signal
import time

import pytest
from rich.console import Console
from rich.live import Live

from dtr.cli.cluster.following import PhaseView
from dtr.ucp.model import Operation, OperationState, Phase


def _running() -> Operation:
    now = time.time()
    return Operation(
        id="1" * 12,
        kind="join",
        arguments={},
        phases=(Phase(name="preparing", started_at=now, state=OperationState.RUNNING),),
        created_by="admin",
        created_at=now,
        updated_at=now,
    )


@pytest.mark.parametrize("step", ["set_live", "clear_live", "pop_render_hook"])
def test_ctrl_c_in_the_middle_of_drawing_waits_for_the_end_of_it(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The terminal is left as it was, and the interruption is not lost."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    whole = getattr(Console, step)

    def strike(console: Console, *given: Live) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return whole(console, *given)

    monkeypatch.setattr(Console, step, strike)
    view = PhaseView()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - one of the two is struck
        view.show(_running())
        view.end()
    monkeypatch.setattr(Console, step, whole)
    view.end()
    view.show(_running())
    view.end()
