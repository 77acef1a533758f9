"""Join tokens: what a machine needs to know to join, in one word that can be pasted.

`UCPTKN-1-<SHA-256 of the authority's certificate>-<secret>`, for workers `UCPTKN-1W-…`. The first
part is no secret: by it the machine knows that it speaks to this control plane before it tells the
second. What a token is good for, controllers know by the secret alone.
"""

import hashlib
import hmac
import re
import secrets
from base64 import b32encode
from dataclasses import dataclass
from typing import Final, Self

from dtr.ucp.model import JoinToken, TokenKind

LIFETIME_SECONDS: Final = 86_400.0
LONGEST_LIFETIME_SECONDS: Final = 366 * 86_400.0

_PREFIXES: Final = {TokenKind.MANAGER: "UCPTKN-1-", TokenKind.WORKER: "UCPTKN-1W-"}
_SECRET_BYTES: Final = 20
_FORM: Final = re.compile(r"UCPTKN-1(W?)-([0-9a-f]{64})-([a-z2-7]{26,64})")


class TokenError(Exception):
    """A join token is none; the message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Token:
    """A join token, taken apart."""

    ca_fingerprint: str
    secret: str
    kind: TokenKind = TokenKind.MANAGER
    """What it says it is for; a hint for the machine that joins."""

    @classmethod
    def create(cls, ca_fingerprint: str, kind: TokenKind = TokenKind.MANAGER) -> Self:
        """Make a token with a new secret of 160 bits."""
        secret = b32encode(secrets.token_bytes(_SECRET_BYTES)).decode().lower()
        return cls(ca_fingerprint, secret, kind)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a token apart; white space around it, as pasting leaves it, is no matter.

        Raises:
            TokenError: it is none.

        """
        word = "".join(text.split())
        found = _FORM.fullmatch(word)
        if found is not None:
            kind = TokenKind.WORKER if found[1] else TokenKind.MANAGER
            return cls(found[2], found[3], kind)
        if not word.startswith("UCPTKN-"):
            reason = "A join token begins with UCPTKN-1-."
        elif not word.startswith(tuple(_PREFIXES.values())):
            reason = "This join token is of another version of UCP."
        else:
            reason = "This join token is incomplete or has other characters in it."
        raise TokenError(f"{reason} Copy all of what 'ucp token show' prints on a manager.")

    def __str__(self) -> str:
        """Return the word itself, which is a secret."""
        return f"{_PREFIXES[self.kind]}{self.ca_fingerprint}-{self.secret}"

    def __repr__(self) -> str:
        return f"Token({self.ca_fingerprint[:8]}…, ***)"


def new_join_token(
    kind: TokenKind, ca_fingerprint: str, now: float, lifetime_seconds: float = LIFETIME_SECONDS
) -> tuple[Token, JoinToken]:
    """Make a token, and what controllers keep of it."""
    token = Token.create(ca_fingerprint, kind)
    kept = JoinToken(
        secret_hash=hash_secret(token.secret),
        secret=token.secret,
        created_at=now,
        kind=kind,
        expires_at=now + lifetime_seconds,
    )
    return token, kept


def hash_secret(secret: str) -> str:
    """Return what a secret is compared by; it is random, so a plain hash is enough."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def is_secret(secret: str, secret_hash: str) -> bool:
    """Tell whether it is the secret, in the same time whatever it is."""
    return hmac.compare_digest(hash_secret(secret), secret_hash)
