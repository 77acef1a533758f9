"""Join tokens: what a machine needs to know to join, in one word that can be pasted.

`UCPTKN-1-<SHA-256 of the authority's certificate>-<secret>`. The first part is no secret: by it the
machine knows that it speaks to this control plane before it tells the second.
"""

import hashlib
import hmac
import re
import secrets
from base64 import b32encode
from dataclasses import dataclass
from typing import Final, Self

_PREFIX: Final = "UCPTKN-1-"
_SECRET_BYTES: Final = 20
_FORM: Final = re.compile(r"UCPTKN-1-([0-9a-f]{64})-([a-z2-7]{26,64})")


class TokenError(Exception):
    """A join token is none; the message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Token:
    """A join token, taken apart."""

    ca_fingerprint: str
    secret: str

    @classmethod
    def create(cls, ca_fingerprint: str) -> Self:
        """Make a token with a new secret of 160 bits."""
        return cls(ca_fingerprint, b32encode(secrets.token_bytes(_SECRET_BYTES)).decode().lower())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a token apart; white space around it, as pasting leaves it, is no matter.

        Raises:
            TokenError: it is none.

        """
        word = "".join(text.split())
        found = _FORM.fullmatch(word)
        if found is not None:
            return cls(found[1], found[2])
        if not word.startswith("UCPTKN-"):
            reason = "A join token begins with UCPTKN-1-."
        elif not word.startswith(_PREFIX):
            reason = "This join token is of another version of UCP."
        else:
            reason = "This join token is incomplete or has other characters in it."
        raise TokenError(f"{reason} Copy all of what 'ucp token show' prints on a manager.")

    def __str__(self) -> str:
        """Return the word itself, which is a secret."""
        return f"{_PREFIX}{self.ca_fingerprint}-{self.secret}"

    def __repr__(self) -> str:
        return f"Token({self.ca_fingerprint[:8]}…, ***)"


def hash_secret(secret: str) -> str:
    """Return what a secret is compared by; it is random, so a plain hash is enough."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def is_secret(secret: str, secret_hash: str) -> bool:
    """Tell whether it is the secret, in the same time whatever it is."""
    return hmac.compare_digest(hash_secret(secret), secret_hash)
