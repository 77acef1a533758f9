"""Names of repositories, tags and accounts: the specification's grammar, and nothing else."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dtr.model.digest import Digest
from dtr.model.errors import DigestInvalidError, NameInvalidError, TagInvalidError
from dtr.model.names import (
    MAX_NAME_LENGTH,
    RepositoryName,
    TagName,
    parse_account_name,
    parse_reference,
)

# As the specification prints them, with its own escaping.
SPECIFIED_NAME = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
SPECIFIED_TAG = r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"
NEARLY = st.text("ab0._-/A \n", max_size=12)


@settings(max_examples=30)  # each is made slowly
@given(st.from_regex(SPECIFIED_NAME, fullmatch=True).filter(lambda n: len(n) <= MAX_NAME_LENGTH))
def test_every_specified_name_is_a_name(text: str) -> None:
    """And its namespace is what stands before the first slash."""
    name = RepositoryName.parse(text)
    assert name == text
    assert name.namespace == text.split("/", maxsplit=1)[0]


@given(NEARLY)
@example("a\n")
@example("a__b")
@example("a___b")
@example("a--b")
@example("a._b")
def test_a_text_is_a_name_exactly_when_the_specification_says_so(text: str) -> None:
    """The specification's own expression is the judge; `$` in it must not allow a line end."""
    if re.fullmatch(SPECIFIED_NAME, text, re.ASCII):
        assert RepositoryName.parse(text) == text
    else:
        with pytest.raises(NameInvalidError):
            RepositoryName.parse(text)


@given(st.text(max_size=20))
def test_other_scripts_are_no_names(text: str) -> None:
    """Digits and letters are those of ASCII."""
    if not text.isascii():
        for parse in (RepositoryName.parse, parse_account_name):
            with pytest.raises(NameInvalidError):
                parse(text)
        with pytest.raises(TagInvalidError):
            TagName.parse(text)


def test_a_name_may_have_255_characters() -> None:
    """And one more is too many, which is said as such."""
    assert len(RepositoryName.parse("a" * 255)) == 255
    with pytest.raises(NameInvalidError, match="longer than 255"):
        RepositoryName.parse("a" * 256)


@given(st.text("a-_.", max_size=300))
def test_no_name_takes_long_to_refuse(text: str) -> None:
    """The expression does not backtrack without end (the test's deadline is the judge)."""
    for candidate in (text, "a" + text * 10 + "!", "a/" * 100 + text):
        try:
            RepositoryName.parse(candidate)
        except NameInvalidError:
            continue


@given(st.one_of(st.from_regex(SPECIFIED_TAG, fullmatch=True), NEARLY))
def test_a_text_is_a_tag_exactly_when_the_specification_says_so(text: str) -> None:
    """Up to 128 characters, not beginning with a dot or dash."""
    if re.fullmatch(SPECIFIED_TAG, text, re.ASCII):
        assert TagName.parse(text) == text
        assert parse_reference(text) == text
        assert isinstance(parse_reference(text), TagName)
    else:
        with pytest.raises(TagInvalidError):
            TagName.parse(text)


def test_a_tag_may_have_128_characters() -> None:
    """And one more is too many; the facts hold no more of it than people read."""
    assert TagName.parse("x" * 128)
    with pytest.raises(TagInvalidError) as caught:
        TagName.parse("x" * 5000)
    assert caught.value.detail == {"tag": "x" * 200}


def test_a_reference_with_a_colon_is_a_digest_or_nothing() -> None:
    """Never a tag."""
    digest = Digest.of(b"x")
    assert isinstance(parse_reference(digest), Digest)
    for text in ("latest:x", ":", "sha256:abc"):
        with pytest.raises(DigestInvalidError):
            parse_reference(text)


@pytest.mark.parametrize("text", ["a", "0", "a.b_c-d", "a--b", "a" * 64])
def test_an_account_may_be_called_so(text: str) -> None:
    """One component of a repository's name."""
    assert parse_account_name(text) == text
    assert RepositoryName.parse(f"{text}/x").namespace == text


@pytest.mark.parametrize(
    "text", ["", "A", "a/b", "a b", "-a", "a-", ".", "a..b", "a" * 65, "a\n", "é", "a:b"]
)
def test_an_account_may_not_be_called_so(text: str) -> None:
    """A slash would reach into another namespace, a colon into the password."""
    with pytest.raises(NameInvalidError) as caught:
        parse_account_name(text)
    assert caught.value.detail == {"name": text}
