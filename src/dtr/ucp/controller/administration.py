"""Logging in and out, and passwords."""

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from dtr.accounts.passwords import hash_password
from dtr.ucp import keys
from dtr.ucp.api import Access, ApiError, ApiRequest, ApiRoute
from dtr.ucp.controller.machines import read_machines
from dtr.ucp.controller.sessions import Administrators
from dtr.ucp.model import Administrator
from dtr.ucp.store import IsUnchanged, Put

_MAX_PASSWORD = 1024


class LoginRequest(BaseModel):
    """Who logs in, with the names that the original had."""

    model_config = ConfigDict(extra="ignore")

    username: str = Field(max_length=128)
    password: str = Field(max_length=_MAX_PASSWORD)


class PasswordRequest(BaseModel):
    """A new password."""

    model_config = ConfigDict(extra="ignore")

    password: str = Field(max_length=_MAX_PASSWORD)


class Administration:
    """The routes of administrators' own affairs."""

    def __init__(self, administrators: Administrators) -> None:
        self._administrators = administrators

    def routes(self) -> list[ApiRoute]:
        """Return the routes."""
        return [
            ApiRoute("POST", "/auth/login", Access.OPEN, self.login),
            ApiRoute("POST", "/auth/logout", Access.ADMINISTRATOR, self.logout),
            ApiRoute(
                "POST", "/administrators/{name}/password", Access.ADMINISTRATOR, self.set_password
            ),
        ]

    async def login(self, request: ApiRequest) -> JsonValue:
        """Begin a session and tell where the other controllers are."""
        asked = LoginRequest.model_validate(request.body)
        found = await self._administrators.verify(
            asked.username, asked.password, request.peer_address, request.now
        )
        token = await self._administrators.begin(found)
        machines = await read_machines(request.store)
        return {"auth_token": token, "controllers": list(machines.controllers)}

    async def logout(self, request: ApiRequest) -> JsonValue:
        """End the session."""
        if request.session:
            await self._administrators.end(request.session)
        return {}

    async def set_password(self, request: ApiRequest) -> JsonValue:
        """Set an administrator's password, which ends all sessions with the one before."""
        asked = PasswordRequest.model_validate(request.body)
        name = request.path["name"]
        entry = await request.store.get(keys.administrator(name))
        if entry is None:
            raise ApiError(404, "ADMINISTRATOR_UNKNOWN", f"There is no administrator {name!r}.")
        changed = Administrator(
            name=name, password_hash=hash_password(asked.password), changed_at=request.now
        )
        unchanged = IsUnchanged(entry.key, entry.modified)
        if not await request.store.commit([Put(entry.key, changed.encoded())], [unchanged]):
            raise ApiError(409, "CHANGED", "It was changed at the same time. Try again.")
        return {"name": name}
