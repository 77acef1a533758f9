"""Passwords and random secrets: how they are made, kept and compared."""

import asyncio
import hashlib
import secrets
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from argon2 import PasswordHasher, Type, extract_parameters
from argon2.exceptions import InvalidHashError, UnsupportedParametersError, VerificationError

from dtr.model.errors import InvalidError, TooManyRequestsError

MIN_PASSWORD_LENGTH = 8
MAX_PASSWORD_LENGTH = 1024
TOKEN_PREFIX = "dtr_"  # noqa: S105 - a mark, so that people and scanners recognise a leaked token
_MOST_WAITING = 80
_MOST_UNKNOWN_WAITING = 64
_BUSY_SECONDS = 2.0

# OWASP's second choice for argon2id: a verification costs 19 MiB, so that a few at once do not
# crowd out the registry, and some 20 ms.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)


def hash_password(password: str) -> str:
    """Return the argon2id hash of a new password.

    Raises:
        InvalidError: shorter than 8 or longer than 1024 characters.

    """
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        message = f"a password must have {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters"
        raise InvalidError(message)
    return _HASHER.hash(password)


def check_hash(password_hash: str) -> str:
    """Return a hash that was made elsewhere, if `verify_password` can use it.

    Raises:
        InvalidError: it is not argon2id's.

    """
    try:
        is_usable = extract_parameters(password_hash).type is Type.ID
    except (InvalidHashError, UnsupportedParametersError):
        is_usable = False
    if not is_usable:
        raise InvalidError("that is not the argon2id hash of a password: $argon2id$v=19$...")
    return password_hash


@cache
def _nobody() -> str:
    """Return a hash that no password has, to spend the same time on names that do not exist."""
    return _HASHER.hash(secrets.token_urlsafe())


def verify_password(password: str, password_hash: str | None) -> bool:
    """Tell whether `password` is the one; takes as long where there is no such account."""
    if len(password) > MAX_PASSWORD_LENGTH:
        return False
    try:
        _HASHER.verify(password_hash or _nobody(), password)
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None


class PasswordVerifier:
    """Verifies on two threads of its own: a storm of logins must not stop pulls.

    Some of the places in its queue are for those alone who have logged in before from where they
    are: strangers with many addresses cannot take them.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="passwords")
        self._waiting = 0

    async def verify(
        self, password: str, password_hash: str | None, *, is_known: bool = False
    ) -> bool:
        """Tell whether `password` is the one.

        Raises:
            TooManyRequestsError: so many are to be verified that it would take seconds.

        """
        if self._waiting >= (_MOST_WAITING if is_known else _MOST_UNKNOWN_WAITING):
            raise TooManyRequestsError(
                "too many logins at once; try again", retry_after_seconds=_BUSY_SECONDS
            )
        loop = asyncio.get_running_loop()
        self._waiting += 1
        running = loop.run_in_executor(self._threads, verify_password, password, password_hash)
        # Counted until it ends: whoever goes away leaves it in the queue, or at work.
        running.add_done_callback(self._left)
        return await running

    def _left(self, running: "asyncio.Future[bool]") -> None:
        del running
        self._waiting -= 1

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(cancel_futures=True)


def new_password() -> str:
    """Return a password nobody can guess: 120 bits, without characters that look alike."""
    alphabet = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    return "".join(secrets.choice(alphabet) for _ in range(21))


def new_token() -> str:
    """Return a new access or refresh token: 240 bits behind the prefix."""
    return TOKEN_PREFIX + secrets.token_urlsafe(30)


def hash_token(token: str) -> str:
    """Return what is kept of a token; it is random, so a plain hash is enough."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
