"""`/auth/token`: the Docker registry token specification, GET and OAuth2 POST."""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from dtr.accounts import records
from dtr.accounts.gate import Gate
from dtr.accounts.identity import Identity, parse_basic
from dtr.accounts.passwords import hash_token, new_token
from dtr.accounts.settings import AuthSettings
from dtr.accounts.signing import KeyRing
from dtr.asgi import Endpoint, Request, Response, Route
from dtr.asgi.forwarded import Proxies
from dtr.database import Database, Writer
from dtr.model.access import NEEDED, NOBODY, OPEN, Action, Credential, Level, Principal
from dtr.model.errors import (
    HeaderTooLargeError,
    NameInvalidError,
    ParameterInvalidError,
    UnauthorizedError,
)
from dtr.model.names import RepositoryName

_MAX_SCOPES = 100
_FORM_BYTES = 64 * 1024
_UNCACHED = {b"cache-control": b"no-store"}


class TokenEndpoint:
    """Issues bearer tokens for what their account may do, and no more.

    A scope that the account may not have is left out in silence: the token then simply does not
    grant it, and the answer tells nobody whether a repository exists.
    """

    def __init__(
        self,
        database: Database,
        identity: Identity,
        keys: KeyRing,
        gate: Gate,
        settings: AuthSettings,
        proxies: Proxies,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._identity = identity
        self._keys = keys
        self._gate = gate
        self._settings = settings
        self._proxies = proxies
        self._clock = clock
        self._challenge = f'Basic realm="{settings.service}"'

    def routes(self) -> list[Route]:
        """Return the token route; it is open, for it is where one logs in."""
        return [
            Route(
                "/auth/token",
                {"GET": Endpoint(self.get, OPEN), "POST": Endpoint(self.post, OPEN)},
            )
        ]

    async def get(self, request: Request) -> Response:
        """Answer GET: basic credentials or none, any number of scopes."""
        try:
            credential = await self._login(request)
            scopes = request.query_all("scope")
            refresh = request.query("offline_token") in {"true", "1"}
            return await self._answer(credential, scopes, refresh=refresh)
        except UnauthorizedError as error:
            error.challenge = self._challenge
            raise

    async def post(self, request: Request) -> Response:
        """Answer POST: a form with a password or a refresh token."""
        form = _parse_form(await request.content(limit=_FORM_BYTES))
        try:
            return await self._post(request, form)
        except UnauthorizedError as error:
            error.challenge = self._challenge
            raise

    async def _post(self, request: Request, form: dict[str, list[str]]) -> Response:
        scopes = form.get("scope", [])
        match form.get("grant_type", [""])[0]:
            case "password":
                credential = await self._identity.login(
                    form.get("username", [""])[0],
                    form.get("password", [""])[0],
                    self._proxies.client(request),
                )
                refresh = form.get("access_type", [""])[0] == "offline"
                return await self._answer(credential, scopes, refresh=refresh)
            case "refresh_token":
                token = form.get("refresh_token", [""])[0]
                credential = await self._identity.refresh(token)
                return await self._answer(credential, scopes, token=token)
            case _:
                raise ParameterInvalidError("grant_type must be password or refresh_token")

    async def _login(self, request: Request) -> Credential:
        authorization = request.header(b"authorization")
        if not authorization:
            return NOBODY
        if len(authorization) > self._settings.header_bytes:
            raise HeaderTooLargeError(limit=self._settings.header_bytes)
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() != "basic":
            message = "a token is issued for a name and password"
            raise UnauthorizedError(message)
        name, password = parse_basic(value)
        return await self._identity.login(name, password, self._proxies.client(request))

    async def _answer(
        self,
        credential: Credential,
        scopes: Iterable[str],
        *,
        refresh: bool = False,
        token: str = "",
    ) -> Response:
        seconds = self._settings.token_seconds
        principal = credential.principal
        claims: dict[str, Any] = {
            "sub": principal.name,
            "account": principal.account_id,
            "epoch": credential.epoch,
            "access": await self._granted(principal, scopes),
        }
        if principal.ceiling is not Level.ADMIN:
            claims["ceiling"] = int(principal.ceiling)
        if credential.token_id is not None:
            claims["token"] = credential.token_id
        bearer = await self._keys.sign(claims, lifetime_seconds=seconds)
        answer: dict[str, Any] = {
            "token": bearer,
            "access_token": bearer,
            "expires_in": seconds,
            "issued_at": datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        is_offered = self._settings.refresh_tokens == "offer"
        if refresh and is_offered and not principal.is_anonymous:
            token = await self._new_refresh_token(credential)
        if token:
            answer["refresh_token"] = token
        return Response.json(answer, headers=_UNCACHED)

    async def _new_refresh_token(self, credential: Credential) -> str:
        token = new_token()
        await self._database.write(
            add_refresh_token,
            credential,
            hash_token(token),
            expires_at=self._clock() + self._settings.refresh_token_seconds,
            most=self._settings.refresh_tokens_per_user,
        )
        return token

    async def _granted(self, principal: Principal, scopes: Iterable[str]) -> list[dict[str, Any]]:
        """Return the `access` claim for the scopes that were asked for."""
        wanted = [part for scope in scopes for part in scope.split(" ") if part]
        if len(wanted) > _MAX_SCOPES:
            raise ParameterInvalidError(f"more than {_MAX_SCOPES} scopes", limit=_MAX_SCOPES)
        entries: dict[tuple[str, str], dict[str, Any]] = {}
        for scope in wanted:
            kind, name, asked = _parse_scope(scope)
            granted, about = await self._allowed(principal, kind, name, asked)
            if granted:
                new = {"type": kind, "name": name, "actions": []}
                entry = entries.setdefault((kind, name), new)
                entry["actions"] += [each for each in granted if each not in entry["actions"]]
                entry.update(about)
        return list(entries.values())

    async def _allowed(
        self, principal: Principal, kind: str, name: str, asked: list[str]
    ) -> tuple[list[str], dict[str, int]]:
        """Return the actions that are granted, and which repository it is that has the name now."""
        if kind == "registry" and name == "catalog":
            return ["*"] if not principal.is_anonymous and "*" in asked else [], {}
        if kind != "repository":
            return [], {}
        try:
            level, repository = await self._gate.level(principal, RepositoryName.parse(name))
        except NameInvalidError:
            return [], {}
        granted = [
            str(action)
            for action in (Action.PULL, Action.PUSH, Action.DELETE)
            if (action in asked or "*" in asked) and level >= NEEDED[action]
        ]
        bound = None if repository is None else repository.lasting_id
        return granted, {} if bound is None else {"id": bound}


def add_refresh_token(
    writer: Writer, credential: Credential, secret_hash: str, *, expires_at: float, most: int
) -> None:
    """Keep a new refresh token, if what it was asked for with is still good; the oldest give way.

    Raises:
        UnauthorizedError: the account or the access token has changed since it was verified.

    """
    principal, parent_id = credential.principal, credential.token_id
    found = writer.first(records.FIND_ACCOUNT, {"id": principal.account_id})
    account = records.account_of(found) if found else None
    is_parent_gone = parent_id is not None and not records.has_token(writer, parent_id)
    is_changed = account is None or not account.is_active or account.epoch != credential.epoch
    if account is None or is_changed or is_parent_gone:
        raise UnauthorizedError("the account or token of this login has changed; log in again")
    records.add_token(
        writer,
        account.id,
        kind="refresh",
        secret_hash=secret_hash,
        label="",
        level=principal.ceiling,
        expires_at=expires_at,
        parent_id=parent_id,
    )
    records.remove_oldest_refresh_tokens(writer, account.id, keep=most)


def _parse_scope(scope: str) -> tuple[str, str, list[str]]:
    """Split `repository:NAME:pull,push`; the name may have a host and port before it."""
    kind, _, rest = scope.partition(":")
    name, colon, actions = rest.rpartition(":")
    if not colon:
        raise ParameterInvalidError("scope must be type:name:actions", scope=scope[:200])
    return kind.partition("(")[0], name, actions.split(",")


def _parse_form(content: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(content.decode("ascii"), errors="strict", max_num_fields=_MAX_SCOPES + 20)
    except ValueError:
        raise ParameterInvalidError("body must be a URL-encoded form") from None
