"""JSON that others wrote: read strictly, at a cost that grows with its length and no faster.

A parser makes an object of every bracket, so a few MiB of brackets cost seconds where text of that
length costs milliseconds. What makes objects is therefore counted before anything is parsed.
"""

import gc
import json
import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from dtr.model.errors import InvalidError

LARGE_BYTES: Final = 64 << 10
"""A document of more is not parsed on an event loop."""

_STRUCTURAL: Final = (b"{", b"[", b",", b":")
_DEEP: Final = ("ecursion", "depth limit")
_CONTAINERS: Final = (dict, list)
_HEX_COLON = re.compile(rb"\\u003[aA]")


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """How much a document may make a parser do, whatever its length.

    `tokens` are the characters `{`, `[`, `,` and `:`, those in strings included.
    """

    nesting: int = 32
    tokens: int = 320_000


class JsonInvalidError(InvalidError):
    """A document is not the JSON that it should be; the message is a part of a sentence."""


def load_json(payload: bytes, limits: JsonLimits | None = None) -> Any:
    """Return the document, in which nothing could be read in two ways.

    No key stands twice in an object, no number is none, and no string has half a character.

    >>> load_json(b'{"a": [1]}')
    {'a': [1]}

    Raises:
        JsonInvalidError: it is not JSON, or beyond the limits.

    """
    limits = limits or JsonLimits()
    _check_tokens(payload, limits.tokens)
    try:
        document = _parsed(payload)
    except ValueError as error:
        if any(words in str(error) for words in _DEEP):
            raise _too_deep(limits.nesting) from None
        raise JsonInvalidError(f"is not JSON: {_where(error)}") from None
    _check_keys(payload, _colons(document, limits.nesting))
    return document


def _where(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"see line {error.lineno}, column {error.colno}"
    return "it is not text in UTF-8"


def _parsed(payload: bytes) -> Any:
    """Parse, without a collection of cycles in the middle of it.

    Both keep the interpreter from all other threads, for tens of milliseconds where a document is
    large: one after the other lets these in between.
    """
    if len(payload) <= LARGE_BYTES or not gc.isenabled():
        return orjson.loads(payload)
    gc.disable()
    try:
        return orjson.loads(payload)
    finally:
        gc.enable()


def _check_tokens(payload: bytes, limit: int) -> None:
    if len(payload) <= limit:
        return
    found = sum(map(payload.count, _STRUCTURAL))
    if found > limit:
        message = f"has {found} braces, brackets, commas and colons, and {limit} are the most"
        raise JsonInvalidError(message, limit=limit)


def _colons(document: object, limit: int) -> int:
    """Return how many colons a text of this document has: one for each key, and those in strings.

    Level by level, so that whoever walks through the document afterwards does not go too deep.
    """
    colons = 0
    values: list[Any] = [document]
    for depth in range(limit + 1):
        containers = [value for value in values if type(value) in _CONTAINERS]
        if depth == limit and containers:
            raise _too_deep(limit)
        texts = [value for value in values if type(value) is str]
        values = []
        for container in containers:
            if type(container) is dict:
                colons += len(container)
                texts += container
                values += container.values()
            else:
                values += container
        colons += "".join(texts).count(":")
    return colons


def _check_keys(payload: bytes, colons: int) -> None:
    """Refuse a document of which a parser kept less than there is: of two equal keys it keeps one.

    It has then more colons than what is left of it. One in a string may also be written in hex.
    """
    if payload.count(b":") + _hex_colons(payload) != colons:
        raise JsonInvalidError("has a key twice in one object")


def _hex_colons(payload: bytes) -> int:
    r"""Count `\u003a`, but where its backslash is itself escaped."""
    count = end = 0
    for found in _HEX_COLON.finditer(payload):
        before = payload[end : found.start()]
        end = found.end()
        count += (len(before) - len(before.rstrip(b"\\"))) % 2 == 0
    return count


def _too_deep(limit: int) -> JsonInvalidError:
    return JsonInvalidError(f"is nested deeper than {limit}", limit=limit)
