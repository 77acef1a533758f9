"""Whatever others wrote, it steers no terminal and adds no line."""

import io
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tests.cli.ucp_command import administrator_of
from tests.cluster_plan.simulation import cluster_of
from tests.ucp.plane import ControlPlane, report

from dtr.cli.cluster.following import PhaseView
from dtr.cli.cluster.rendering import rendered
from dtr.cli.output import Text, cell, one_line, printable
from dtr.cli.terminal import json_text
from dtr.cluster.status import cluster_status
from dtr.ucp.api import PREFIX
from dtr.ucp.model import Operation, OperationState, Phase

BAD = "\x1b]0;title\x07\x1b[2J\x9b1A\u202e\u2028\r\x7f\nNo problems."


def steers(text: str) -> set[str]:
    """Return what of a text a terminal may act on."""
    kinds = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return {each for each in text if unicodedata.category(each) in kinds and each not in "\n\t"}


def spoiled(document: Any) -> Any:
    """Return a document with something bad in each of its texts."""
    if isinstance(document, dict):
        return {name: spoiled(value) for name, value in document.items()}
    if isinstance(document, list):
        return [spoiled(each) for each in document]
    return f"{document}{BAD}" if isinstance(document, str) else document


@given(st.text())
def test_no_text_is_left_that_a_terminal_acts_on(text: str) -> None:
    """Text that is harmless stays as it is, and JSON stays JSON."""
    assert steers(printable(text)) == set()
    assert "\n" not in one_line(text)
    assert steers(str(Text(text).append(text))) == set()
    assert "\n" not in str(cell(text))
    assert json.loads(printable(json_text({"text": text}))) == {"text": text}


@pytest.mark.parametrize("text", ["plain", "süß – “quoted” … 漢字 🙂", "a\nb\tc", "no\u00a0break"])
def test_what_people_write_is_shown_as_it_is(text: str) -> None:
    """In any script."""
    assert printable(text) == text


async def test_the_status_of_a_hostile_cluster_is_harmless() -> None:
    """With something bad in each text of the document; nor does it have a line more."""
    simulation = await cluster_of(2)
    simulation.kill(2)
    await simulation.tick(20)
    await simulation.start("join", node="node2")
    document = cluster_status(await simulation.view(), simulation.now)
    texts = []
    for each in (document, spoiled(document)):
        console = Console(file=io.StringIO(), width=10_000)
        console.print(rendered(each))
        assert isinstance(console.file, io.StringIO)
        texts.append(console.file.getvalue())
    assert steers(texts[1]) == set()
    assert texts[1].count("\n") == texts[0].count("\n")


def test_a_phase_with_a_bad_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Operations quote what nodes say."""
    phase = Phase(name=f"waiting{BAD}", state=OperationState.FAILED, started_at=1, ended_at=2)
    operation = Operation(
        id="o",
        kind="join",
        arguments={},
        created_by="a",
        created_at=1,
        updated_at=1,
        phases=(phase,),
    )
    PhaseView().show(operation)
    shown = capsys.readouterr().err
    assert steers(shown) == set()
    assert shown.count("\n") == 1


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give a control plane with a node that reports what it should not."""
    (tmp_path / "plane").mkdir()
    with ControlPlane(tmp_path / "plane") as running:
        node = running.join("node2", "10.0.0.2")
        process = {
            "name": BAD,
            "state": "ready",
            "pid": 1,
            "since": 0,
            "restarts": 0,
            "message": BAD,
        }
        told = report(node.id, running.now, version=BAD, problems=[BAD], processes=[process])
        with running.http(node) as http:
            assert http.post(f"{PREFIX}/agent/report", json=told).status_code == 200
        yield running


@pytest.mark.parametrize("words", ["status", "node ls", "node inspect node2"])
def test_what_a_node_reports_is_harmless(plane: ControlPlane, tmp_path: Path, words: str) -> None:
    """To administrators who look at it; scripts get it as it is."""
    ucp = administrator_of(plane, tmp_path)
    ended = ucp.good(*words.split())
    assert steers(ended.out + ended.err) == set()
    assert not any(line.startswith("No problems.") for line in ended.out.splitlines())
    assert BAD in texts_of(ucp.good(*words.split(), "--json").json)


def texts_of(document: Any) -> set[str]:
    """Return all texts of a document."""
    if isinstance(document, dict):
        document = list(document.values())
    if isinstance(document, list):
        return {text for each in document for text in texts_of(each)}
    return {document} if isinstance(document, str) else set()
