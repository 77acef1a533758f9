"""Every message of a phase is in plain words, with nothing of a library or an object in it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster_plan.plain import strange, wrong_form, wrong_sentence

import dtr.cluster.plan

PLACE = Path(dtr.cluster.plan.__file__).parent
FILES = sorted(PLACE.glob("plan*.py"))
_CALLS = {"Wait": 0, "Fail": 0, "Act": 1, "Done": 0, "Step": 0}
_EXCEPTIONS = {"error", "exception", "exc"}
_WARNING = "warning"


def _calls() -> Iterator[tuple[str, str, ast.expr]]:
    """Yield each outcome that a plan makes: where, which, and its message."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            name, at = node.func.id, _CALLS.get(node.func.id)
            if at is None:
                continue
            place = f"{path.name}:{node.lineno}"
            for each in node.keywords:
                if each.arg in {"message", "warning"}:
                    yield place, name if each.arg == "message" else _WARNING, each.value
            for message in node.args[at : at + 1]:
                yield place, name, message


def _texts(message: ast.expr) -> Iterator[str]:
    """Yield the forms of a message, with `x` for whatever is put into it."""
    match message:
        case ast.Constant(value=str() as text):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "x" for part in parts
            )
        case ast.IfExp(body=one, orelse=other):
            yield from _texts(one)
            yield from _texts(other)
        case ast.BinOp(left=one, right=other):
            yield from (a + b for a in _texts(one) for b in _texts(other))
        case _:
            return


MESSAGES = [
    (place, name, text) for place, name, message in _calls() for text in _texts(message) if text
]


def test_the_messages_are_found() -> None:
    """Else the next test would hold for none."""
    assert len(MESSAGES) > 80
    assert {name for _, name, _ in MESSAGES} == {*_CALLS, _WARNING}


@pytest.mark.parametrize(
    ("place", "name", "text"), MESSAGES, ids=[f"{place} {name}" for place, name, _ in MESSAGES]
)
def test_every_message_of_a_plan_is_in_plain_words(place: str, name: str, text: str) -> None:
    """What waits says for what, what fails is a sentence, a step is named by what it does."""
    if name in {"Fail", _WARNING}:
        assert not wrong_sentence(text), place
        assert text[:1].isupper() or text[:1] == "x", place
    else:
        assert not wrong_form(text), place
        assert not text.endswith("."), place
    if name == "Wait":
        assert text.startswith("for "), place


def test_no_plan_puts_an_exception_into_a_message() -> None:
    """What an exception says is its library's."""
    for place, _, message in _calls():
        names = {node.id for node in ast.walk(message) if isinstance(node, ast.Name)}
        assert not names & {*_EXCEPTIONS, "repr"}, place


@pytest.mark.parametrize(
    "text",
    [
        "x: Cannot connect to host 127.0.0.1:443 ssl:<ssl.SSLContext object at 0x7f>",
        "[Errno 111] Connect call failed ('127.0.0.1', 443)",
        "ConnectionRefusedError",
        "the answer is None",
        "for node4: ",
    ],
)
def test_the_words_of_libraries_are_recognized(text: str) -> None:
    """By the check that the other tests use."""
    assert strange(text)
