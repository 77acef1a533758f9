"""Operations: asked for here, driven by the leading controller, followed by whoever asked."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from dtr.model.errors import UnavailableError
from dtr.ucp import keys
from dtr.ucp.api import Access, ApiError, ApiRequest, ApiRoute, OperationKind
from dtr.ucp.model import Operation, OperationState
from dtr.ucp.store import Change, Delete, Entry, IsUnchanged, Put, Store

LONGEST_WAIT_SECONDS: Final = 20.0
MAX_KEPT: Final = 100
"""Operations that have ended and can still be looked at."""

_ATTEMPTS: Final = 5
_LOOK_SECONDS: Final = 1.0


class OperationRequest(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="ignore")

    kind: str = Field(max_length=64)
    arguments: dict[str, JsonValue] = Field(default_factory=dict)


class Operations:
    """The routes of operations, of the kinds that other rooms bring."""

    def __init__(self, kinds: Sequence[OperationKind]) -> None:
        self._kinds: Mapping[str, OperationKind] = {kind.name: kind for kind in kinds}

    def routes(self) -> list[ApiRoute]:
        """Return the routes."""
        return [
            ApiRoute("POST", "/operations", Access.ADMINISTRATOR, self.start),
            ApiRoute("GET", "/operations", Access.ADMINISTRATOR, list_operations),
            ApiRoute("GET", "/operations/{id}", Access.ADMINISTRATOR, show_operation),
            ApiRoute("POST", "/operations/{id}/cancel", Access.ADMINISTRATOR, cancel),
        ]

    async def start(self, request: ApiRequest) -> JsonValue:
        """Write the operation down; of those that change membership one at a time."""
        asked = OperationRequest.model_validate(request.body)
        kind = self._kinds.get(asked.kind)
        if kind is None:
            known = ", ".join(sorted(self._kinds)) or "none"
            raise ApiError(
                400, "INVALID", f"There is no operation {asked.kind!r}. There are: {known}."
            )
        operation = Operation(
            id=secrets.token_hex(8),
            kind=kind.name,
            arguments=kind.check(asked.arguments),
            created_by=request.caller,
            created_at=request.now,
            updated_at=request.now,
        )
        for _ in range(_ATTEMPTS):
            changes: list[Change] = [Put(keys.operation(operation.id), operation.encoded())]
            conditions: list[IsUnchanged] = []
            if kind.is_exclusive:
                lock = await _free_lock(request.store)
                changes.append(Put(keys.OPERATION_LOCK, operation.id.encode()))
                conditions.append(IsUnchanged(keys.OPERATION_LOCK, lock))
            changes += await _outdated(request.store)
            if await request.store.commit(changes, conditions):
                return operation.model_dump(mode="json")
        raise ApiError(503, "BUSY", "Too many operations were requested at once. Try again.")


async def list_operations(request: ApiRequest) -> JsonValue:
    """Return operations, newest first; with `?state=running` only such."""
    state = request.query.get("state", "")
    found = [entry.document(Operation) for entry in (await request.store.list(keys.OPERATIONS))[0]]
    found.sort(key=lambda each: each.created_at, reverse=True)
    shown: list[JsonValue] = [
        each.model_dump(mode="json") for each in found if state in {"", str(each.state)}
    ]
    return {"operations": shown}


async def show_operation(request: ApiRequest) -> JsonValue:
    """Return an operation; with `?after=UPDATED_AT` once it has changed, or after 20 s."""
    _, operation = await _find(request)
    after = request.query.get("after", "")
    if after and operation.state is OperationState.RUNNING:
        seen = _number(after)
        with suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                while operation.updated_at == seen:
                    await _until_changed(request)
                    _, operation = await _find(request)
    return operation.model_dump(mode="json")


async def cancel(request: ApiRequest) -> JsonValue:
    """Ask an operation to stop; whether it still can is up to whoever drives it."""
    for _ in range(_ATTEMPTS):
        entry, operation = await _find(request)
        if operation.state is not OperationState.RUNNING:
            raise ApiError(409, "ENDED", f"The operation has ended already: {operation.state}.")
        cancelled: Operation = operation.changed(is_cancelled=True, updated_at=request.now)
        if operation.is_cancelled or await request.store.commit(
            [Put(entry.key, cancelled.encoded())], [IsUnchanged(entry.key, entry.modified)]
        ):
            return cancelled.model_dump(mode="json")
    raise ApiError(503, "BUSY", "Another request is changing the operation. Try again.")


async def _free_lock(store: Store) -> int:
    """Return the revision of the lock that may be taken; 0 where there is none.

    One that an operation has left behind which has ended is free.
    """
    lock = await store.get(keys.OPERATION_LOCK)
    if lock is None:
        return 0
    holder = await store.get(keys.operation(lock.value.decode()))
    running = holder.document(Operation) if holder else None
    if running is None or running.state is not OperationState.RUNNING:
        return lock.modified
    raise ApiError(
        409,
        "OPERATION_RUNNING",
        f"A {running.kind} is running (operation {running.id}, begun by {running.created_by}), and "
        "only one change of that kind may run at a time. Wait until it has ended.",
    )


async def _outdated(store: Store) -> list[Change]:
    entries, _ = await store.list(keys.OPERATIONS)
    ended = [
        (operation.updated_at, entry.key)
        for entry in entries
        if (operation := entry.document(Operation)).state is not OperationState.RUNNING
    ]
    return [Delete(key) for _, key in sorted(ended)[: max(0, len(ended) - MAX_KEPT)][:50]]


async def _find(request: ApiRequest) -> tuple[Entry, Operation]:
    operation_id = request.path["id"]
    entry = await request.store.get(keys.operation(operation_id))
    if entry is None:
        raise ApiError(
            404, "OPERATION_UNKNOWN", f"There is no operation {operation_id[:80]!r} any more."
        )
    return entry, entry.document(Operation)


async def _until_changed(request: ApiRequest) -> None:
    """Return at the operation's next change, or a moment later where watching fails."""
    key = keys.operation(request.path["id"])
    _, revision = await request.store.list(key)
    try:
        async with (
            asyncio.timeout(_LOOK_SECONDS),
            aclosing(request.store.watch(key, revision)) as changes,
        ):
            async for _ in changes:
                return
    except TimeoutError:
        # A change between the look and the watch is found by the next look.
        return
    except UnavailableError:
        await asyncio.sleep(_LOOK_SECONDS)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ApiError(400, "INVALID", "after is a time: an operation's updated_at.") from None
