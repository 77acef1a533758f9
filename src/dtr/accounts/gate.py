"""The one gate in front of every route: deny by default (CVE-2026-27771 is why there is one)."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Concatenate, ParamSpec, TypeVar

from dtr.accounts import records
from dtr.accounts.identity import Identity
from dtr.accounts.permits import permitted
from dtr.asgi import Request
from dtr.asgi.forwarded import Proxies
from dtr.database import Database, Writer
from dtr.model.access import (
    MAY_PUSH,
    NEEDED,
    Access,
    Action,
    Credential,
    Door,
    Level,
    Permit,
    Principal,
    Repository,
    level_of,
)
from dtr.model.errors import DeniedError, NameInvalidError, NameUnknownError, UnauthorizedError
from dtr.model.names import RepositoryName

T = TypeVar("T")
P = ParamSpec("P")

_FOR_ADMINISTRATORS = frozenset({Door.OPERATOR, Door.ADMINISTRATOR})
_WRITES = frozenset({Action.PUSH, Action.DELETE, Action.ADMIN})


class Gate:
    """Checks what each route declares, once, before its handler runs.

    Who may not see a repository is told the same about one that exists and one that does not.
    """

    def __init__(
        self,
        database: Database,
        identity: Identity,
        *,
        service: str,
        proxies: Proxies,
        public_url: str = "",
        path_prefix: str = "",
        metrics_public: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._identity = identity
        self._service = service
        self._proxies = proxies
        self._public_url = public_url.rstrip("/")
        self._path_prefix = path_prefix
        self._metrics_public = metrics_public
        self._clock = clock

    async def admit(self, request: Request, access: Access) -> None:
        """Let the request pass and put principal, repository and permit on it.

        Raises:
            UnauthorizedError: with the challenge that tells the client where to get a token.
            DeniedError: the principal is known and may not.
            NameUnknownError: the principal may not know whether the repository exists.

        """
        if access.door is Door.OPEN or (access.door is Door.OPERATOR and self._metrics_public):
            return
        if access.door is Door.REPOSITORY:
            # First of all: challenges repeat the name, and headers are no place for any text.
            RepositoryName.parse(request.parameters["name"])
        try:
            credential = await self._identity.identify(
                request.header(b"authorization"), self._proxies.client(request)
            )
        except UnauthorizedError as error:
            error.challenge = self._challenge(request, access, "invalid_token")
            raise
        request.principal = credential.principal
        if access.door is Door.REPOSITORY:
            await self._admit_to_repository(request, access, credential)
        elif not self._may_enter(request.principal, access.door):
            raise self._refusal(request, access)
        elif access.door is Door.ADMINISTRATOR:
            request.permit = Permit(credential, access)

    def write(
        self,
        unit: Callable[Concatenate[Writer, P], T],
        request: Request,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Awaitable[T]:
        """Run a unit that writes what the request may, if it still may (`permitted`).

        Raises:
            UnauthorizedError, DeniedError, NameUnknownError: it may not any more.

        """
        return self._written(
            self._database.write, lambda writer: unit(writer, *args, **kwargs), request
        )

    def write_soon(
        self,
        unit: Callable[Concatenate[Writer, P], T],
        request: Request,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Awaitable[T]:
        """Do as `write`, in a transaction that a power cut may undo (`Database.write_soon`)."""
        return self._written(
            self._database.write_soon, lambda writer: unit(writer, *args, **kwargs), request
        )

    async def _written(
        self,
        write: Callable[..., Awaitable[T]],
        unit: Callable[[Writer], T],
        request: Request,
    ) -> T:
        permit = request.permit
        if permit is None:
            raise DeniedError("the route does not say that it writes")
        try:
            return await write(permitted, permit, self._clock, unit)
        except UnauthorizedError as error:
            error.challenge = self._challenge(request, permit.access, "invalid_token")
            raise

    async def level(
        self, principal: Principal, name: RepositoryName
    ) -> tuple[Level, Repository | None]:
        """Return what `principal` may do with the repository called `name`, and the repository.

        The scope of a bearer token is left out: it is about the token, not the account.
        """
        row = await self._database.lookup(records.FIND_REPOSITORY, {"name": name})
        repository = records.repository_of(name, row) if row else None
        if repository is None:
            owns = principal.name == name.namespace and not principal.is_anonymous
        else:
            owns = repository.namespace_id == principal.account_id
        needs_grant = not (principal.is_anonymous or principal.is_admin or owns)
        return level_of(
            principal,
            owns_namespace=owns,
            visibility=repository.visibility if repository else None,
            granted=await self._granted(principal, name, repository) if needs_grant else Level.NONE,
        ), repository

    async def source_of_mount(self, request: Request, name: RepositoryName) -> int | None:
        """Return the repository that a mount names, if the principal may pull from it.

        By its id: another one may have the name a moment later, for which the token is not.

        Raises:
            UnauthorizedError: it may, but its token is narrower: the challenge asks for more.

        """
        principal = request.principal
        level, repository = await self.level(principal, name)
        if level < Level.READ_ONLY or repository is None:
            return None
        scope = principal.scope
        is_narrower = scope is not None and not (
            scope.allows(name, Action.PULL) and scope.is_for(name, repository.id)
        )
        if is_narrower and name != request.parameters["name"]:
            raise self._refusal(request, MAY_PUSH)
        return repository.id

    async def _granted(
        self, principal: Principal, name: RepositoryName, repository: Repository | None
    ) -> Level:
        if repository is None:
            parameters = {"account_id": principal.account_id, "namespace": name.namespace}
            row = await self._database.lookup(records.FIND_NAMESPACE_GRANT, parameters)
        else:
            row = await self._database.lookup(
                records.FIND_GRANT,
                {
                    "account_id": principal.account_id,
                    "repository_id": repository.id,
                    "namespace_id": repository.namespace_id,
                },
            )
        return Level(row[0]) if row and row[0] is not None else Level.NONE

    async def _admit_to_repository(
        self, request: Request, access: Access, credential: Credential
    ) -> None:
        name = RepositoryName.parse(request.parameters["name"])
        action = access.action
        if action is None:
            raise DeniedError("the route does not say what it does with the repository")
        principal = request.principal
        if principal.scope is not None and not principal.scope.allows(name, action):
            raise self._refusal(request, access)
        level, repository = await self.level(principal, name)
        request.repository = repository
        found_id = repository.id if repository is not None else None
        if principal.scope is not None and not principal.scope.is_for(name, found_id):
            raise self._refusal(request, access)
        if level >= NEEDED[action] and (
            repository is not None
            or action is not Action.PUSH
            or await self._may_create(principal, name)
        ):
            if action in _WRITES:
                request.permit = Permit(credential, access, name, _written_id(repository, action))
            return
        if principal.is_anonymous:
            raise self._refusal(request, access)
        if level is Level.NONE and action is Action.PULL:
            raise NameUnknownError(name=str(name))
        raise DeniedError(name=str(name), action=str(action))

    async def _may_create(self, principal: Principal, name: RepositoryName) -> bool:
        """Tell whether the account administers the namespace, whatever its token's level.

        What does not exist can only be created, and that is the namespace's owner's to do.
        """
        account = replace(principal, ceiling=Level.ADMIN)
        return (await self.level(account, name))[0] is Level.ADMIN

    def _may_enter(self, principal: Principal, door: Door) -> bool:
        match door:
            case Door.ACCOUNT:
                return not principal.is_anonymous
            case Door.CATALOG:
                has_scope = principal.scope is None or principal.scope.catalog
                return has_scope and not principal.is_anonymous
            case Door.OPERATOR | Door.ADMINISTRATOR:
                return principal.acts_as_admin and principal.scope is None
            case _:
                return False

    def _refusal(self, request: Request, access: Access) -> UnauthorizedError | DeniedError:
        """Ask for better credentials where those could help."""
        principal = request.principal
        if access.door in _FOR_ADMINISTRATORS and not principal.is_anonymous:
            return DeniedError("only an administrator may do this")
        problem = "" if principal.is_anonymous else "insufficient_scope"
        return UnauthorizedError(challenge=self._challenge(request, access, problem))

    def _challenge(self, request: Request, access: Access, problem: str) -> str:
        """Return the challenge of the Docker token specification."""
        if access.door in _FOR_ADMINISTRATORS:
            return f'Basic realm="{self._service}"'
        origin = self._public_url or self._proxies.origin(request)
        parts = [f'realm="{origin}{self._path_prefix}/auth/token"', f'service="{self._service}"']
        scope = _scope_text(request, access)
        if scope:
            parts.append(f'scope="{scope}"')
        if problem and request.header(b"authorization"):
            parts.append(f'error="{problem}"')
        return "Bearer " + ",".join(parts)


def _written_id(repository: Repository | None, action: Action) -> int | None:
    """Return which repository must still be there when the request writes.

    None for a push to a provisional one, which goes when somebody else's upload there ends.
    """
    if repository is None:
        return None
    return repository.lasting_id if action is Action.PUSH else repository.id


def _scope_text(request: Request, access: Access) -> str:
    match access:
        case Access(Door.CATALOG):
            return "registry:catalog:*"
        case Access(Door.REPOSITORY, Action.PUSH):
            return f"repository:{request.parameters['name']}:pull,push{_source_scope(request)}"
        case Access(Door.REPOSITORY, action):
            return f"repository:{request.parameters['name']}:{action}"
        case _:
            return ""


def _source_scope(request: Request) -> str:
    """Return the scope for the repository that a push mounts from, to be asked for at once."""
    source = request.query("from")
    if not source or request.query("mount") is None:
        return ""
    try:
        return f" repository:{RepositoryName.parse(source)}:pull"
    except NameInvalidError:
        return ""
