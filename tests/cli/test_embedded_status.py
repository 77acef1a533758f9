"""`dtr status` where there is no cluster."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.cli.command import QuickCommandLine
from tests.support.server import RunningServer


def test_a_registry_that_does_not_run_is_shown(quick: QuickCommandLine) -> None:
    """With what it holds, and that nobody serves it; `--check` fails then."""
    quick.good("org", "create", "team")
    shown = quick.good("status", "--json").json
    assert (shown["kind"], shown["server_process"]) == ("embedded", None)
    assert (shown["users"], shown["organizations"], shown["repositories"]) == (1, 1, 0)
    assert shown["problems"] == ["No server runs on this data directory. Start it: dtr serve."]
    text = quick.good("status").out
    assert "without a cluster" in text
    assert shown["problems"][0] in text
    assert quick.run("status", "--check").status == 1


def test_a_full_disk_is_a_problem(quick: QuickCommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pushes are refused then."""
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: SimpleNamespace(free=70 << 20, total=1 << 30)
    )
    assert "The disk has 70 MiB free and pushes need 80 MiB" in quick.good("status").out


@pytest.mark.server
def test_a_registry_that_runs_is_shown(tmp_path: Path) -> None:
    """With the process that serves it, and nothing is wrong."""
    with RunningServer(tmp_path) as server:
        quick = QuickCommandLine(tmp_path, server.data_dir)
        shown = quick.good("status", "--json", "--check").json
        assert shown["server_process"] == server.pid
        assert "Nothing is wrong." in quick.good("status").out
