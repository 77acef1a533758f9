"""Bearer tokens: signed with a key that every process knows, and that changes (design 9)."""

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dtr.accounts import records
from dtr.database import Database, Writer
from dtr.model.errors import UnauthorizedError, UnavailableError

_ALGORITHM = "ES256"
_REQUIRED = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"]
_LEEWAY_SECONDS = 5
_RELOAD_SECONDS = 60
_LEAST_RELOAD_SECONDS = 1
_POLL_SECONDS = 1
_CHANNEL = "signing_keys"


class KeyRing:
    """The signing keys of this registry, kept in the metadata.

    Only these keys are trusted, by their id: a token cannot bring its own (CVE-2025-24976). An id
    that is not known yet was perhaps made a moment ago by another process: then the ring looks
    again, at most once a second.
    """

    def __init__(
        self, database: Database, *, service: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._service = service
        self._clock = clock
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self._newest = ""
        self._loaded_at = float("-inf")

    async def sign(self, claims: dict[str, Any], *, lifetime_seconds: int) -> str:
        """Return a token with `claims`, valid from now for `lifetime_seconds`."""
        await self.check()
        now = int(self._clock())
        standard = {
            "iss": self._service,
            "aud": self._service,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime_seconds,
            "jti": secrets.token_hex(12),
        }
        key = self._keys[self._newest]
        return jwt.encode(standard | claims, key, _ALGORITHM, headers={"kid": self._newest})

    async def check(self) -> None:
        """Make sure that tokens can be signed.

        Raises:
            UnavailableError: they cannot, for there is no key.

        """
        await self._load(_RELOAD_SECONDS if self._newest else 0)
        if not self._newest:
            raise UnavailableError("there is no key to sign tokens")

    async def verify(self, token: str) -> dict[str, Any]:
        """Return the claims of a token that one of our keys signed and that is valid now.

        Raises:
            UnauthorizedError: it is not.

        """
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            key = await self._find(key_id if isinstance(key_id, str) else "")
            claims: dict[str, Any] = jwt.decode(
                token,
                key.public_key(),
                algorithms=[_ALGORITHM],
                audience=self._service,
                issuer=self._service,
                # The library knows no clock but the machine's.
                options={
                    "require": _REQUIRED,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
            _check_times(claims, self._clock())
        except (jwt.PyJWTError, TypeError, ValueError, RecursionError) as error:
            raise UnauthorizedError(f"bearer token is not valid: {_why(error)}") from None
        return claims

    async def follow(self) -> None:
        """Look again when any process has changed the keys, until cancelled."""
        async for _ in self._database.changes(_CHANNEL, poll_seconds=_POLL_SECONDS):
            with suppress(UnavailableError):
                await self._load(0)

    async def _find(self, key_id: str) -> ec.EllipticCurvePrivateKey:
        if key_id not in self._keys:
            await self._load(_LEAST_RELOAD_SECONDS)
        if key_id not in self._keys:
            raise UnauthorizedError(
                "bearer token is signed with a key that this registry does not have"
            )
        return self._keys[key_id]

    async def _load(self, older_than_seconds: float) -> None:
        now = self._clock()
        if 0 <= now - self._loaded_at < older_than_seconds:  # a clock may have been set back
            return
        rows = await self._database.lookup_all(records.SIGNING_KEYS, {"now": now})
        self._keys = {key_id: self._keys.get(key_id) or _parse(pem) for key_id, pem, _ in rows}
        self._newest = rows[-1][0] if rows else ""
        self._loaded_at = now


def rotate_key(
    writer: Writer, now: float, *, rotation_seconds: float, token_seconds: float
) -> bool:
    """Make a new key when the newest is older than `rotation_seconds`; return whether it was."""
    newest = records.newest_key_time(writer)
    if newest is not None and now - newest < rotation_seconds:
        return False
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    # Old keys verify on until the last token that they signed is over, and a day.
    expires_at = now + 2 * rotation_seconds + token_seconds + 86400
    records.add_signing_key(
        writer, secrets.token_hex(8), pem.decode(), now=now, expires_at=expires_at
    )
    writer.notify(_CHANNEL)
    return True


def _why(error: Exception) -> str:
    match error:
        case jwt.InvalidSignatureError():
            return "its signature is wrong"
        case jwt.InvalidAudienceError() | jwt.InvalidIssuerError():
            return "it is for another service"
        case jwt.MissingRequiredClaimError():
            return "it is not complete"
        case _:
            return "it cannot be read"


def _check_times(claims: dict[str, Any], now: float) -> None:
    begins = max(int(claims["nbf"]), int(claims["iat"]))
    if int(claims["exp"]) + _LEEWAY_SECONDS <= now or begins - _LEEWAY_SECONDS > now:
        raise UnauthorizedError("bearer token is not valid at this time")


def _parse(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("signing key is not an elliptic curve key")
    return key
