"""Administrators: their passwords, and the sessions that any controller knows."""

import secrets
from functools import partial
from typing import Final

from dtr.accounts.passwords import PasswordVerifier
from dtr.accounts.throttle import LoginThrottle, MemoryFailures, ThrottleLimits
from dtr.accounts.wrong_guesses import WrongGuesses
from dtr.ucp import keys
from dtr.ucp.api import ApiError
from dtr.ucp.model import Administrator, Session
from dtr.ucp.store import Put, Store
from dtr.ucp.tokens import hash_secret

SESSION_SECONDS: Final = 3600.0

_LIMITS: Final = ThrottleLimits(failures_before_delay=5, delay_seconds=1, delay_max_seconds=60)
_MAX_NAME: Final = 128
_MAX_TOKEN: Final = 256


class Administrators:
    """Who may use the control plane, by password or by session."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._verifier = PasswordVerifier()
        # Counted by this controller alone: with several of them somebody has as many times as many
        # guesses, which is as good as none against a password.
        self._throttle = LoginThrottle(MemoryFailures(), _LIMITS)
        self._wrong = WrongGuesses()

    def close(self) -> None:
        """Let go of threads."""
        self._verifier.close()

    async def verify(self, name: str, password: str, address: str, now: float) -> Administrator:
        """Return the administrator of that name and password.

        Raises:
            ApiError: 401, the same for a name that there is not and a wrong password, after the
                same time.
            TooManyRequestsError: after too many of them.

        """
        attempt = self._throttle.attempt(name, address)
        state = partial(self._state, name)
        if await self._wrong.is_repeated(attempt, password, state):
            raise _refusal()
        async with self._throttle.turn(attempt):
            if await self._wrong.is_repeated(attempt, password, state):
                raise _refusal()
            async with self._throttle.attempting(attempt, now) as outcome:
                found = await self.find(name)
                password_hash = found.password_hash if found else None
                outcome.is_success = await self._verifier.verify(
                    password, password_hash, is_known=outcome.is_known
                )
            if found is not None and outcome.is_success:
                return found
            self._wrong.add(attempt, password, password_hash or "")
        raise _refusal()

    async def _state(self, name: str) -> str:
        """Return what changes whenever another password may be right."""
        found = await self.find(name)
        return found.password_hash if found else ""

    async def find(self, name: str) -> Administrator | None:
        """Return an administrator."""
        if not 0 < len(name) <= _MAX_NAME or "/" in name:
            return None
        entry = await self._store.get(keys.administrator(name))
        return entry.document(Administrator) if entry else None

    async def begin(self, administrator: Administrator) -> str:
        """Begin a session of an hour and return its token, of which only a hash is kept."""
        token = secrets.token_urlsafe(32)
        lease = await self._store.grant(SESSION_SECONDS)
        session = Session(
            administrator=administrator.name,
            password_changed_at=administrator.changed_at,
            lease=lease,
        )
        await self._store.commit([Put(session_key(token), session.encoded(), lease)])
        return token

    async def end(self, key: str) -> None:
        """End a session by where it is kept; idempotent."""
        entry = await self._store.get(key)
        if entry is not None:
            await self._store.revoke(entry.document(Session).lease)

    async def resume(self, token: str) -> str:
        """Return whose session it is; empty where it has ended or never was.

        It ends after an hour, at logout, with a new password, and with the administrator.
        """
        if len(token) > _MAX_TOKEN:
            return ""
        return await self._administrator_of(session_key(token))

    async def is_open(self, key: str) -> bool:
        """Tell whether a session has not ended, by where it is kept."""
        return bool(await self._administrator_of(key))

    async def _administrator_of(self, key: str) -> str:
        entry = await self._store.get(key)
        if entry is None:
            return ""
        session = entry.document(Session)
        found = await self.find(session.administrator)
        if found is None or found.changed_at != session.password_changed_at:
            return ""
        return found.name


def _refusal() -> ApiError:
    return ApiError(401, "UNAUTHORIZED", "The username or the password is wrong.")


def session_key(token: str) -> str:
    """Return where the session of a token is kept."""
    return keys.SESSIONS + hash_secret(token)
