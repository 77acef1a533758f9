"""Join tokens, as administrators see and change them; and how a machine's is recognized."""

from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from dtr.ucp import keys
from dtr.ucp.api import Access, ApiError, ApiRequest, ApiRoute
from dtr.ucp.authority import fingerprint
from dtr.ucp.model import ClusterRecord, JoinToken, Role, TokenKind
from dtr.ucp.store import Condition, Delete, Entry, IsUnchanged, Put, Store
from dtr.ucp.tokens import (
    LIFETIME_SECONDS,
    LONGEST_LIFETIME_SECONDS,
    Token,
    is_secret,
    new_join_token,
)

_ATTEMPTS: Final = 5


class _Named(BaseModel):
    model_config = ConfigDict(extra="ignore")

    kind: TokenKind = TokenKind.MANAGER


class _Rotation(_Named):
    lifetime_seconds: float = Field(LIFETIME_SECONDS, gt=0, le=LONGEST_LIFETIME_SECONDS)


@dataclass(frozen=True, slots=True)
class Admission:
    """A token that lets a machine in now."""

    entry: Entry
    token: JoinToken

    @property
    def condition(self) -> Condition:
        """What a commit must hold to, so that a token that is revoked meanwhile lets nobody in."""
        return IsUnchanged(self.entry.key, self.entry.modified)

    def used(self, now: float) -> Put:
        """Return the change that counts this use."""
        counted = self.token.changed(uses=self.token.uses + 1, last_used_at=now)
        return Put(self.entry.key, counted.encoded())

    def role(self, asked: Role) -> Role:
        """Return what a machine becomes that asked to be this.

        With a worker's token it is never chosen as a manager by itself: see ADR 16.

        Raises:
            ApiError: it asks for more than the token gives.

        """
        if self.token.kind is TokenKind.MANAGER:
            return asked
        if asked is Role.MANAGER:
            raise ApiError(
                403,
                "TOKEN_KIND",
                "A worker token does not make a machine a manager. Join with what 'ucp token "
                "show --kind manager' prints, or promote the node later: ucp node promote.",
            )
        return Role.WORKER


def token_routes() -> list[ApiRoute]:
    """Return the routes of `ucp token`."""
    return [
        ApiRoute("GET", "/token", Access.ADMINISTRATOR, show_token),
        ApiRoute("GET", "/tokens", Access.ADMINISTRATOR, list_tokens),
        ApiRoute("POST", "/token/rotate", Access.ADMINISTRATOR, rotate_token),
        ApiRoute("POST", "/token/revoke", Access.ADMINISTRATOR, revoke_token),
    ]


async def admitted(store: Store, secret: str, now: float) -> Admission:
    """Return the token that has this secret.

    Raises:
        ApiError: 401, there is none, or it has expired.

    """
    found = None
    for kind in TokenKind:
        entry = await store.get(keys.join_token(kind))
        token = entry.document(JoinToken) if entry else None
        # Compared with each, so that the time does not tell which one was nearly right.
        if entry is not None and token is not None and is_secret(secret, token.secret_hash):
            found = Admission(entry, token)
    if found is None:
        raise ApiError(
            401,
            "TOKEN_INVALID",
            "The join token is not valid. Take what 'ucp token show' prints on a manager.",
        )
    if found.token.expires_at <= now:
        raise ApiError(
            401,
            "TOKEN_EXPIRED",
            "The join token has expired. Make a new one on a manager: ucp token rotate --kind "
            f"{found.token.kind}.",
        )
    return found


async def show_token(request: ApiRequest) -> JsonValue:
    """Return the join token of a kind, with its secret."""
    kind = _Named.model_validate(dict(request.query)).kind
    entry = await request.store.get(keys.join_token(kind))
    token = entry.document(JoinToken) if entry else None
    if token is None or token.expires_at <= request.now:
        what = "is none" if token is None else "has been one, which has expired"
        raise ApiError(
            404,
            "TOKEN_UNKNOWN",
            f"There {what}: a join token for {kind}s. Make one: ucp token rotate --kind {kind}.",
        )
    return await _shown(request.store, token)


async def list_tokens(request: ApiRequest) -> JsonValue:
    """Return all join tokens without their secrets, those that have expired, too."""
    entries = [await request.store.get(keys.join_token(kind)) for kind in TokenKind]
    tokens = [entry.document(JoinToken) for entry in entries if entry is not None]
    return {
        "tokens": [
            {**_facts(each), "is_expired": each.expires_at <= request.now} for each in tokens
        ]
    }


async def rotate_token(request: ApiRequest) -> JsonValue:
    """Make a new join token of a kind; the one before is worth nothing from now on."""
    asked = _Rotation.model_validate(request.body or {})
    _, token = new_join_token(asked.kind, "", request.now, asked.lifetime_seconds)
    await request.store.commit([Put(keys.join_token(asked.kind), token.encoded())])
    return await _shown(request.store, token)


async def revoke_token(request: ApiRequest) -> JsonValue:
    """Delete the join token of a kind: nobody joins that way until a new one is made."""
    kind = _Named.model_validate(request.body or {}).kind
    for _ in range(_ATTEMPTS):
        entry = await request.store.get(keys.join_token(kind))
        if entry is None:
            raise ApiError(404, "TOKEN_UNKNOWN", f"There is no join token for {kind}s.")
        unchanged = IsUnchanged(entry.key, entry.modified)
        if await request.store.commit([Delete(entry.key)], [unchanged]):
            return _facts(entry.document(JoinToken))
    raise ApiError(503, "BUSY", "Too many machines join at once. Try again.")


async def _shown(store: Store, token: JoinToken) -> JsonValue:
    entry = await store.get(keys.CLUSTER)
    if entry is None:
        raise ApiError(503, "UNAVAILABLE", "The control plane is not set up yet. Try again.")
    pinned = fingerprint(entry.document(ClusterRecord).ca_certificate)
    return {"token": str(Token(pinned, token.secret, token.kind)), **_facts(token)}


def _facts(token: JoinToken) -> dict[str, JsonValue]:
    return {
        "kind": str(token.kind),
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "uses": token.uses,
        "last_used_at": token.last_used_at,
    }
