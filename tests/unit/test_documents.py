"""JSON of others is read strictly, and costs no more than its length is worth."""

import asyncio
import json
import threading
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dtr.model.away import away_from_loop
from dtr.model.documents import (
    LARGE_BYTES,
    JsonInvalidError,
    JsonLimits,
    load_json,
)

TEXTS = st.text(st.sampled_from('a:\\"u03A\n\U0001f433'), max_size=6)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=10,
)


@given(JSON, st.booleans())
@example({":": "::"}, True)
def test_what_json_writes_is_read(document: Any, is_ascii: bool) -> None:  # noqa: FBT001
    """Colons in strings and escapes of all sorts are not taken for keys."""
    for text in (json.dumps(document, ensure_ascii=is_ascii), json.dumps(document, indent=1)):
        assert load_json(text.encode()) == document
        assert load_json(text.replace("\\\\", "\\u005c").encode()) == document
        if is_ascii:
            assert load_json(_with_hex_colons(document).encode()) == document


def _with_hex_colons(document: Any) -> str:
    """Return JSON whose strings have no colon but in hex."""
    if isinstance(document, dict):
        pairs = (f"{_with_hex_colons(k)}:{_with_hex_colons(v)}" for k, v in document.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(document, list):
        return "[" + ",".join(map(_with_hex_colons, document)) + "]"
    return json.dumps(document).replace(":", "\\u003a")


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '{"a": 1, "\\u0061": 2}',
        '{"a": ":", "a": "\\u003a"}',
        '{"a": "\\u003a", "a": ":"}',
        '[{"b": {"a": [], "a": {}}}]',
        '{"": 1, "": 2}',
        '{":": 1, ":": ""}',
    ],
)
def test_no_key_stands_twice(text: str) -> None:
    """Readers differ in which of the two they take."""
    with pytest.raises(JsonInvalidError, match="twice"):
        load_json(text.encode())


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", '"\\ud800"', "[1] x", "", "\ufeff{}", '"\x01"', "01", "[1,]"]
)
def test_what_is_no_json_is_refused(text: str) -> None:
    """Also what some parsers take all the same."""
    with pytest.raises(JsonInvalidError, match="is not JSON"):
        load_json(text.encode())


@pytest.mark.parametrize(
    "content", [b"]", b"[", b"{},", b"[],", b"0,", b'"a":', b"[{},", b'{"a":'], ids=repr
)
def test_a_few_mib_of_structure_are_not_parsed(content: bytes) -> None:
    """They would be millions of objects: it is counted before anything is made of them."""
    for text in (content * (2**22 // len(content)), b"[" + content * (2**22 // len(content))):
        with pytest.raises(JsonInvalidError):
            load_json(text)


def test_tokens_are_counted_to_the_limit() -> None:
    """Those in strings, too, for they are counted without looking where they are."""
    limits = JsonLimits(tokens=4)
    assert load_json(b'{"aaaaaaaaa": [1, 2]}', limits) == {"aaaaaaaaa": [1, 2]}
    for text in (b'{"a": [1, 2, 3]}', b'{"a": ["1,", 2]}'):
        with pytest.raises(JsonInvalidError, match="4 are the most"):
            load_json(text, limits)


@given(st.integers(1, 40), st.integers(1, 40))
def test_nesting_is_counted_to_the_limit(depth: int, limit: int) -> None:
    """Exactly that deep."""
    text = b"[" * depth + b"]" * depth
    if depth <= limit:
        load_json(text, JsonLimits(nesting=limit))
    else:
        with pytest.raises(JsonInvalidError, match=f"deeper than {limit}"):
            load_json(text, JsonLimits(nesting=limit))


async def test_large_documents_are_read_on_another_thread() -> None:
    """An event loop reads small ones itself: to hand them over would cost more."""
    here = threading.get_ident()
    assert await away_from_loop(LARGE_BYTES, threading.get_ident) == here
    found = await asyncio.gather(
        *(away_from_loop(LARGE_BYTES + 1, threading.get_ident) for _ in range(3))
    )
    assert len(set(found)) == 1
    assert here not in found
