"""Tests that must have the machine to themselves are run once more when they fail.

What kills, freezes or measures may fail by the noise of other work on the machine. The summary
names each that did, with both outcomes: a test that stands there often is a defect.
"""

from typing import Final

import pytest

ALONE: Final = frozenset({"crash", "outage", "cluster", "measuring"})
"""The markers of such tests, as in the Makefile."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each run once more if it fails."""
    for item in items:
        if is_alone(item):
            item.add_marker(pytest.mark.flaky(reruns=1))


def is_alone(item: pytest.Item) -> bool:
    """Tell whether a test must have the machine to itself."""
    return any(mark.name in ALONE for mark in item.iter_markers())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests that ran once more."""
    again = {report.nodeid for report in terminalreporter.stats.get("rerun", [])}
    if not again:
        return
    failed = {
        report.nodeid
        for outcome in ("failed", "error")
        for report in terminalreporter.stats.get(outcome, [])
    }
    terminalreporter.section("ran once more")
    for name in sorted(again):
        second = "failed again" if name in failed else "then passed"
        terminalreporter.write_line(f"FLAKY {name}: failed, {second}")
