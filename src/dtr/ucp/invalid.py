"""What is wrong with a document that others sent, field by field and in our own words."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

_MOST: Final = 20
_WORDS: Final = {
    "missing": "is missing",
    "extra_forbidden": "is not a field of this request",
    "json_invalid": "is not JSON",
    "bool": "must be true or false",
    "int": "must be a whole number",
    "float": "must be a number",
    "string_pattern_mismatch": "has characters or a form that are not allowed here",
    "string": "must be text",
    "list": "must be a list",
    "tuple": "must be a list",
    "dict": "must be an object",
    "model": "must be an object",
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be {le} or less",
    "less_than": "must be less than {lt}",
    "string_too_long": "must have {max_length} characters at most",
    "string_too_short": "must have {min_length} characters at least",
    "too_long": "must have {max_length} entries at most",
    "too_short": "must have {min_length} entries at least",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
}
"""By the kind of a problem, or by how its name begins."""


def problems_of(error: ValidationError) -> list[str]:
    """Return each problem with the name of its field; what was in it may be a secret."""
    found = error.errors(include_url=False, include_input=False)
    within = {each["loc"][:-1] for each in found}
    # Entries that are wrong themselves are not counted, so that a list of them seems too short.
    told = [each for each in found if each["type"] != "too_short" or each["loc"] not in within]
    return [_problem(each) for each in told[:_MOST]]


def _problem(detail: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    kind, facts = str(detail["type"]), detail.get("ctx", {})
    if kind == "value_error":  # a sentence of ours
        own = str(facts["error"])
        return f"{where}: {own}" if where else own
    words = _WORDS.get(kind) or _WORDS.get(kind.partition("_")[0], "is not a value for this field")
    return f"{where or 'the request'} {words.format(**facts)}"
