"""From an Authorization header to a principal: passwords, access tokens, bearer tokens."""

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from dtr.accounts import records
from dtr.accounts.failures import SharedFailures
from dtr.accounts.passwords import TOKEN_PREFIX, PasswordVerifier, hash_token
from dtr.accounts.records import Account
from dtr.accounts.settings import AuthSettings
from dtr.accounts.signing import KeyRing
from dtr.accounts.throttle import LoginThrottle, ThrottleLimits
from dtr.accounts.wrong_guesses import WrongGuesses
from dtr.database import Database
from dtr.database.units import Row
from dtr.model.access import NOBODY, Action, Credential, Level, Principal, Scope
from dtr.model.errors import HeaderTooLargeError, UnauthorizedError

_ACCOUNT_SECONDS = 1.0
_CACHED_BEARERS = 4096
_CACHED_BEARER_BYTES = 4096
"""One with more is verified each time: those of a hundred scopes would fill the memory."""
_CACHED_ACCOUNTS = 4096
_CACHED_CREDENTIALS = 4096


class Identity:
    """Finds out who asks.

    What an account may do is asked of the metadata, at most a second late: disabling a user,
    changing a password or revoking a token takes effect on every process within that second, also
    for bearer tokens that are still valid by their own dates.
    """

    def __init__(
        self,
        database: Database,
        keys: KeyRing,
        settings: AuthSettings,
        *,
        is_shared: Callable[[str], bool] = lambda _client: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keys = keys
        self._settings = settings
        self._clock = clock
        self._passwords = PasswordVerifier()
        self.failures = SharedFailures(database)
        limits = ThrottleLimits(
            settings.failed_logins_before_delay,
            settings.failed_login_delay_seconds,
            settings.failed_login_delay_max_seconds,
        )
        self._throttle = LoginThrottle(self.failures, limits, is_shared=is_shared)
        self._wrong = WrongGuesses()
        self._accounts: OrderedDict[int, tuple[float, Account | None]] = OrderedDict()
        self._tokens: OrderedDict[int, tuple[float, bool]] = OrderedDict()
        self._bearers: OrderedDict[str, tuple[float, Credential]] = OrderedDict()
        self._credentials: OrderedDict[bytes, tuple[float, Credential]] = OrderedDict()
        self._cache_secret = secrets.token_bytes(32)
        self._used: dict[int, float] = {}

    async def identify(self, authorization: str, client: str) -> Credential:
        """Return who sent this Authorization header from the address `client`.

        Raises:
            UnauthorizedError: the credentials are wrong, expired or revoked.
            TooManyRequestsError: too many logins failed.
            HeaderTooLargeError: the header is larger than any that this registry gives out.

        """
        if not authorization:
            return NOBODY
        if len(authorization) > self._settings.header_bytes:
            raise HeaderTooLargeError(limit=self._settings.header_bytes)
        scheme, _, value = authorization.partition(" ")
        match scheme.lower():
            case "bearer":
                return await self._bearer(value.strip())
            case "basic":
                name, password = parse_basic(value)
                return await self.login(name, password, client)
            case _:
                raise UnauthorizedError("Authorization must be Basic or Bearer")

    async def login(self, name: str, password: str, client: str) -> Credential:
        """Verify a name with a password or access token; see `identify` for what it raises."""
        if not name and not password:
            return NOBODY
        key = hmac.digest(self._cache_secret, f"{name}\0{password}".encode(), hashlib.sha256)
        cached = await self._remembered(key)
        if cached is not None:
            return cached
        if password.startswith(TOKEN_PREFIX):
            # Nobody guesses one, so nobody is slowed down: not for what others at the address do.
            return self._logged_in(key, await self._access_token(name, password))
        return self._logged_in(key, await self._by_password(key, name, password, client))

    async def _by_password(
        self, key: bytes, name: str, password: str, client: str
    ) -> Credential | None:
        """Return who has this password, if it is right; a guess at one is slowed down."""
        attempt = self._throttle.attempt(name, client)
        state = partial(self._state, name)
        if await self._wrong.is_repeated(attempt, password, state):
            return None
        async with self._throttle.turn(attempt):
            # Whoever waited may find that the one before asked the same, or failed once too often.
            cached = await self._remembered(key)
            if cached is not None:
                return cached
            if await self._wrong.is_repeated(attempt, password, state):
                return None
            async with self._throttle.attempting(attempt, self._clock()) as outcome:
                row = await self._database.lookup(records.FIND_CREDENTIAL, {"name": name})
                credential = await self._password(row, password, is_known=outcome.is_known)
                outcome.is_success = credential is not None
            if credential is None:
                self._wrong.add(attempt, password, _state_of(row))
        return credential

    async def _state(self, name: str) -> str:
        """Return what changes whenever another password may be right."""
        return _state_of(await self._database.lookup(records.FIND_CREDENTIAL, {"name": name}))

    def _logged_in(self, key: bytes, credential: Credential | None) -> Credential:
        if credential is None:
            raise UnauthorizedError("user name or password is not correct")
        until = self._clock() + self._settings.credential_cache_seconds
        _remember(self._credentials, key, (until, credential), _CACHED_CREDENTIALS)
        return credential

    async def refresh(self, token: str) -> Credential:
        """Return the credential that a refresh token stands for.

        Raises:
            UnauthorizedError: it is not a live one.

        """
        row = await self._database.lookup(records.FIND_TOKEN, {"secret_hash": hash_token(token)})
        found = records.token_of(row) if row else None
        if found is None or found.kind != "refresh" or not found.is_live(self._clock()):
            raise UnauthorizedError("refresh token is not valid")
        account = await self._account(found.account_id)
        if account is None or not await self._is_token_live(found.parent_id):
            raise UnauthorizedError("refresh token is not valid")
        self._used[found.id] = self._clock()
        return _credential(account, found.level, found.parent_id)

    def take_used_tokens(self) -> dict[int, float]:
        """Return when tokens were used since the last call, for a batched write."""
        used, self._used = self._used, {}
        return used

    def close(self) -> None:
        """Let go of the threads."""
        self._passwords.close()

    async def _bearer(self, token: str) -> Credential:
        now = self._clock()
        cached = self._bearers.get(token)
        if cached is None or cached[0] <= now:
            cached = await self._verified_bearer(token)
            self._keep_bearer(token, cached)
        current = await self._current(cached[1])
        if current is not cached[1]:
            self._keep_bearer(token, (cached[0], current))
        return current

    def _keep_bearer(self, token: str, verified: tuple[float, Credential]) -> None:
        if len(token) <= _CACHED_BEARER_BYTES:
            _remember(self._bearers, token, verified, _CACHED_BEARERS)

    async def _verified_bearer(self, token: str) -> tuple[float, Credential]:
        claims = await self._keys.verify(token)
        try:
            account_id, epoch = claims.get("account"), int(claims.get("epoch", 0))
            principal = Principal(
                account_id=None if account_id is None else int(account_id),
                name=str(claims["sub"]),
                ceiling=Level(claims.get("ceiling", Level.ADMIN)),
                scope=scope_of(claims.get("access", [])),
            )
            credential = Credential(principal, epoch, claims.get("token"))
        except (KeyError, TypeError, ValueError):
            raise UnauthorizedError("bearer token lacks a claim that this registry needs") from None
        return float(claims["exp"]), credential

    async def _current(self, credential: Credential) -> Credential:
        """Return the credential as its account stands now."""
        principal = credential.principal
        if principal.account_id is None:
            return credential
        account = await self._account(principal.account_id)
        if (
            account is None
            or account.epoch != credential.epoch
            or not await self._is_token_live(credential.token_id)
        ):
            raise UnauthorizedError("the account or token of this login has changed; log in again")
        if account.is_admin == principal.is_admin:
            return credential
        return _credential(account, principal.ceiling, credential.token_id, principal.scope)

    async def _password(
        self, row: Row | None, password: str, *, is_known: bool
    ) -> Credential | None:
        account = records.account_of(row) if row else None
        has_password = account is not None and account.is_active and account.kind == "user"
        password_hash = row[6] if row and has_password else None
        if (
            not await self._passwords.verify(password, password_hash, is_known=is_known)
            or account is None
        ):
            return None
        return _credential(account)

    async def _access_token(self, name: str, secret: str) -> Credential | None:
        row = await self._database.lookup(records.FIND_TOKEN, {"secret_hash": hash_token(secret)})
        token = records.token_of(row) if row else None
        if token is None or token.kind != "access" or not token.is_live(self._clock()):
            return None
        account = await self._account(token.account_id)
        if account is None or account.name != name:
            return None
        self._used[token.id] = self._clock()
        return _credential(account, token.level, token.id)

    async def _remembered(self, key: bytes) -> Credential | None:
        cached = self._credentials.get(key)
        if cached is None or cached[0] <= self._clock():
            return None
        try:
            credential = await self._current(cached[1])
        except UnauthorizedError:
            del self._credentials[key]
            return None
        if credential.token_id is not None:
            self._used[credential.token_id] = self._clock()
        return credential

    async def _account(self, account_id: int) -> Account | None:
        """Return an active account as it was at most a second ago."""
        now = self._clock()
        cached = self._accounts.get(account_id)
        if cached is None or not 0 <= now - cached[0] < _ACCOUNT_SECONDS:
            row = await self._database.lookup(records.FIND_ACCOUNT, {"id": account_id})
            account = records.account_of(row) if row else None
            cached = (now, account if account is not None and account.is_active else None)
            _remember(self._accounts, account_id, cached, _CACHED_ACCOUNTS)
        return cached[1]

    async def _is_token_live(self, token_id: int | None) -> bool:
        if token_id is None:
            return True
        now = self._clock()
        cached = self._tokens.get(token_id)
        if cached is None or not 0 <= now - cached[0] < _ACCOUNT_SECONDS:
            row = await self._database.lookup(records.TOKEN_EXISTS, {"id": token_id, "now": now})
            cached = (now, row is not None)
            _remember(self._tokens, token_id, cached, _CACHED_ACCOUNTS)
        return cached[1]


def parse_basic(value: str) -> tuple[str, str]:
    """Return name and password of a Basic credential.

    Raises:
        UnauthorizedError: it is not base64 of `name:password` in UTF-8.

    """
    try:
        name, colon, password = (
            base64.b64decode(value.strip(), validate=True).decode().partition(":")
        )
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise UnauthorizedError("Basic credentials must be base64 of name:password")
    return name, password


def scope_of(entries: Any) -> Scope:
    """Return the scope in the `access` claim of a bearer token (Docker token specification)."""
    repositories: dict[str, frozenset[Action]] = {}
    ids: dict[str, int] = {}
    catalog = False
    for entry in entries:
        kind, name, actions = entry["type"], entry["name"], entry["actions"]
        if kind == "repository":
            repositories[name] = frozenset(Action(action) for action in actions)
            if "id" in entry:
                ids[name] = int(entry["id"])
        elif kind == "registry" and name == "catalog":
            catalog = "*" in actions
    return Scope(repositories, catalog, ids)


def _credential(
    account: Account,
    ceiling: Level = Level.ADMIN,
    token_id: int | None = None,
    scope: Scope | None = None,
) -> Credential:
    principal = Principal(account.id, account.name, account.is_admin, ceiling, scope)
    return Credential(principal, account.epoch, token_id)


def _state_of(row: Row | None) -> str:
    return "" if row is None else repr(tuple(row))


def _remember(cache: OrderedDict[Any, Any], key: Any, value: Any, size: int) -> None:
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > size:
        cache.popitem(last=False)
