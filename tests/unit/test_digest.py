"""Digests: one content has one spelling per algorithm."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtr.model.digest import Algorithm, Digest, is_digest
from dtr.model.errors import DigestInvalidError

HEX = "0123456789abcdef"
CANONICAL = st.one_of(
    st.text(HEX, min_size=64, max_size=64).map("sha256:{}".format),
    st.text(HEX, min_size=128, max_size=128).map("sha512:{}".format),
)


@given(CANONICAL)
def test_the_canonical_form_parses_to_itself(text: str) -> None:
    """And its parts are those of the text."""
    digest = Digest.parse(text)
    assert digest == text
    assert f"{digest.algorithm}:{digest.encoded}" == text
    assert is_digest(digest)


@given(st.binary(max_size=200), st.sampled_from(Algorithm))
def test_the_digest_of_content_is_its_hash(content: bytes, algorithm: Algorithm) -> None:
    """In either algorithm, at once or in pieces."""
    digest = Digest.of(content, algorithm)
    assert Digest.parse(digest) == digest
    assert digest.algorithm is algorithm
    assert digest.encoded == hashlib.new(algorithm.value, content).hexdigest()
    hasher = algorithm.hasher()
    for start in range(0, len(content), 7):
        hasher.update(content[start : start + 7])
    assert hasher.hexdigest() == digest.encoded


@given(st.text(max_size=140))
def test_any_other_text_is_refused(text: str) -> None:
    """With the text among the facts, for the answer."""
    with pytest.raises(DigestInvalidError) as caught:
        Digest.parse(text)
    assert caught.value.detail == {"digest": text}


@given(CANONICAL, st.data())
def test_a_canonical_digest_with_one_character_changed_is_refused(
    text: str, data: st.DataObject
) -> None:
    """Upper case, another alphabet, one more, one less."""
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(exclude_characters=HEX + "sha256:51"))
    for changed in (
        text[:place] + other + text[place + 1 :],
        text[:place] + text[place + 1 :],
        text[:place] + "0" + text[place:],
        text + "\n",
        " " + text,
        text.upper(),
    ):
        with pytest.raises(DigestInvalidError):
            Digest.parse(changed)


def test_sha256_is_the_default() -> None:
    """What every client knows."""
    assert Digest.of(b"") == "sha256:" + hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize("name", ["", "sha1", "SHA256", "sha-256", "md5", "sha256 "])
def test_an_unknown_algorithm_is_refused(name: str) -> None:
    """By name, with those that there are."""
    with pytest.raises(DigestInvalidError, match="sha256 or sha512"):
        Algorithm.parse(name)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_known_algorithm_is_found_by_its_name(algorithm: Algorithm) -> None:
    """Exactly so written."""
    assert Algorithm.parse(algorithm.value) is algorithm


@given(st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True))
def test_no_tag_is_taken_for_a_digest(tag: str) -> None:
    """A tag has no colon."""
    assert not is_digest(tag)
