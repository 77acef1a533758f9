"""What must be alone runs once more when it fails; nothing else does."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.once_more import ALONE
from tests.support.processes import ROOT

_CONFTEST = """
from tests.support.once_more import pytest_collection_modifyitems, pytest_terminal_summary
"""
_TESTS = """
import pytest
from pathlib import Path

RUNS = Path(__file__).with_name("runs")

def count(name):
    file = RUNS / name
    file.write_text(file.read_text() + "." if file.exists() else ".")
    return len(file.read_text())

@pytest.mark.outage
def test_noise():
    assert count("noise") > 1

@pytest.mark.measuring
def test_broken():
    assert count("broken") > 9

def test_ordinary():
    assert count("ordinary") > 1
"""


def test_a_failed_test_that_must_be_alone_runs_once_more(tmp_path: Path) -> None:
    """Both outcomes are in the summary, and only the second counts."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    (tmp_path / "test_some.py").write_text(_TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    runs = {file.name: len(file.read_text()) for file in (tmp_path / "runs").iterdir()}
    assert runs == {"noise": 2, "broken": 2, "ordinary": 1}
    assert "FLAKY test_some.py::test_noise: failed, then passed" in done.stdout
    assert "FLAKY test_some.py::test_broken: failed, failed again" in done.stdout
    assert re.search(r"^2 failed, 1 passed, .*2 rerun in", done.stdout, re.MULTILINE)


def test_the_makefile_runs_them_alone() -> None:
    """The list of markers stands in two places."""
    [line] = re.findall(r"^ALONE := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(line.split(" or ")) == ALONE


def test_what_is_held_against_the_clock_runs_alone() -> None:
    """That something took less than so many seconds is true of a machine without other work."""
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for line in bounds(ast.parse(path.read_text()), ALONE)
    ]
    assert found == []


def bounds(module: ast.Module, marks: frozenset[str]) -> Iterator[int]:
    """Give the lines of a module that hold what passed against a number, outside of `marks`."""
    if any(is_marked(node, marks) for node in module.body if isinstance(node, ast.Assign)):
        return
    for function in module.body:
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if any(is_marked(each, marks) for each in function.decorator_list):
            continue
        compared = (node for node in ast.walk(function) if isinstance(node, ast.Compare))
        yield from (node.lineno for node in compared if is_bound(node))


def is_marked(node: ast.AST, marks: frozenset[str]) -> bool:
    """Tell whether one of the markers stands in a decorator or in `pytestmark`."""
    return any(isinstance(each, ast.Attribute) and each.attr in marks for each in ast.walk(node))


def is_bound(node: ast.Compare) -> bool:
    """Tell whether this is `time.monotonic() - started < limit`, or `heard.seconds < limit`."""
    sides = [node.left, *node.comparators]
    return any(
        isinstance(operator, ast.Lt | ast.LtE) and is_duration(side)
        for operator, side in zip(node.ops, sides, strict=False)
    )


def is_duration(node: ast.AST) -> bool:
    """Tell whether it is a difference of clock readings, or what such a one is kept in."""
    if isinstance(node, ast.Attribute):
        return node.attr == "seconds"
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)):
        return False
    clock = node.left.func if isinstance(node.left, ast.Call) else None
    return isinstance(clock, ast.Attribute) and clock.attr in {"monotonic", "perf_counter"}
