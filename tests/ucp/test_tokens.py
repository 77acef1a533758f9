"""Join tokens."""

import pytest

from dtr.ucp.model import TokenKind
from dtr.ucp.tokens import Token, TokenError, hash_secret, is_secret

PINNED = "0123456789abcdef" * 4


def test_a_token_is_read_as_it_was_made() -> None:
    """Whatever pasting does to the space around it."""
    token = Token.create(PINNED)
    assert Token.parse(f"  {token}\n") == token
    assert token.ca_fingerprint == PINNED
    assert len(token.secret) >= 26
    worker = Token.create(PINNED, TokenKind.WORKER)
    assert Token.parse(str(worker)) == worker


def test_two_tokens_have_different_secrets() -> None:
    """They are random."""
    assert Token.create(PINNED).secret != Token.create(PINNED).secret


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begins with UCPTKN-1-"),
        ("SWMTKN-1-abc-def", "begins with UCPTKN-1-"),
        ("UCPTKN-2-abc-def", "another version"),
        ("UCPTKN-1-abc-def", "incomplete"),
        (f"UCPTKN-1-{PINNED}-short", "incomplete"),
        (f"UCPTKN-1-{PINNED}-" + "a" * 30 + "!", "other characters"),
        (f"UCPTKN-1-{PINNED}-" + "a" * 10_000, "incomplete"),
    ],
)
def test_what_is_no_token_is_refused_with_a_reason(text: str, reason: str) -> None:
    """And with where to get one."""
    with pytest.raises(TokenError, match=reason) as error:
        Token.parse(text)
    assert "ucp token show" in str(error.value)


def test_a_secret_is_known_by_its_hash_only() -> None:
    """Any other is not."""
    token = Token.create(PINNED)
    kept = hash_secret(token.secret)
    assert token.secret not in kept
    assert is_secret(token.secret, kept)
    assert not is_secret(token.secret + "a", kept)
    assert not is_secret("", kept)
    assert not is_secret("\ud800", kept)


def test_a_token_does_not_show_its_secret_in_logs() -> None:
    """Its repr is what tracebacks and debuggers print."""
    token = Token.create(PINNED)
    assert token.secret not in repr(token)
