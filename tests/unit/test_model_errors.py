"""Errors carry facts, and say one sentence without being told."""

from collections.abc import Iterator

import pytest

from dtr.model.errors import (
    BlobUnknownError,
    ManifestBlobUnknownError,
    MethodUnsupportedError,
    RangeNotSatisfiableError,
    RegistryError,
    TooManyRequestsError,
    UnauthorizedError,
    UnknownError,
    UploadInvalidError,
    UploadRangeError,
)


def below(kind: type[RegistryError]) -> Iterator[type[RegistryError]]:
    """Yield every class below one."""
    for each in kind.__subclasses__():
        yield each
        yield from below(each)


def test_the_default_message_is_the_docstrings_first_line() -> None:
    """Lower case and without its stop, as Go's errors are."""
    assert str(BlobUnknownError()) == "blob unknown to registry"
    assert str(BlobUnknownError("not here", digest="x")) == "not here"
    assert BlobUnknownError(digest="x").detail == {"digest": "x"}


def test_a_class_without_a_docstring_says_its_name() -> None:
    """Better than nothing."""

    class OddError(RegistryError):
        pass

    OddError.__doc__ = None
    assert str(OddError()) == "odderror"


@pytest.mark.parametrize(
    ("error", "attribute", "value"),
    [
        (UploadRangeError("gap", offset=5), "offset", 5),
        (RangeNotSatisfiableError(7), "size", 7),
        (UnauthorizedError(challenge="Basic"), "challenge", "Basic"),
        (MethodUnsupportedError(["GET"]), "allowed", ("GET",)),
        (TooManyRequestsError(retry_after_seconds=2.5), "retry_after_seconds", 2.5),
    ],
)
def test_what_a_caller_needs_is_an_attribute(
    error: RegistryError, attribute: str, value: object
) -> None:
    """Typed, beside the facts for the answer."""
    assert getattr(error, attribute) == value


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (3, 3), (4, 3), (500, 3)])
def test_missing_content_is_listed_without_end_to_neither_people_nor_programs(
    count: int, shown: int
) -> None:
    """Three in the sentence, a hundred among the facts."""
    missing = [f"sha256:{number}" for number in range(count)]
    error = ManifestBlobUnknownError(missing)
    assert str(error).count("sha256:") == shown
    assert ("…" in str(error)) is (count > 3)
    assert error.detail == {"missing": missing[:100]}


def test_every_error_ends_in_error_and_has_a_sentence() -> None:
    """The words of the style guide."""
    for kind in below(RegistryError):
        assert kind.__name__.lower().endswith("error")
        assert kind.default_message()
    assert issubclass(BlobUnknownError, UnknownError)
    assert issubclass(UploadRangeError, UploadInvalidError)
