"""The store on etcd: `Store` as requests to the JSON gateway."""

import math
from base64 import b64decode
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from dtr.ucp.etcd.connection import EtcdConnection, EtcdRefusedError, asks_who, encoded, prefix_end
from dtr.ucp.store import (
    Change,
    Condition,
    Delete,
    Entry,
    IsUnchanged,
    Put,
    Store,
    check_commit,
)

_NO_LEASE: Final = "requested lease not found"
_DENIED: Final = "permission denied"


class EtcdStore:
    """Keys and values in etcd. All reads are linearizable.

    A commit is sent once: when its answer is lost it raises `UnavailableError`, and whoever asked
    looks what is there.
    """

    def __init__(self, connection: EtcdConnection) -> None:
        """Use a connection, which `close` closes."""
        self.connection = connection

    def use_endpoints(self, endpoints: Sequence[str]) -> None:
        """Speak to these members from now on."""
        self.connection.use_endpoints(endpoints)

    async def get(self, key: str) -> Entry | None:
        """Return one key."""
        answer = await self.connection.call("kv/range", {"key": encoded(key)}, is_repeatable=True)
        entries = [_entry(each) for each in answer.get("kvs", ())]
        return entries[0] if entries else None

    async def list(self, prefix: str) -> tuple[list[Entry], int]:
        """Return all keys that begin so, ordered, and the revision at which that was so."""
        answer = await self.connection.call("kv/range", _range_of(prefix), is_repeatable=True)
        entries = [_entry(each) for each in answer.get("kvs", ())]
        return entries, int(answer["header"]["revision"])

    async def commit(self, changes: Sequence[Change], conditions: Sequence[Condition] = ()) -> bool:
        """Make all changes if all conditions hold and no lease has ended, else none."""
        check_commit(changes, conditions)
        body = {
            "compare": [_comparison(each) for each in conditions],
            "success": [_operation(each) for each in changes],
        }
        try:
            answer = await self.connection.call("kv/txn", body, is_repeatable=False)
        except EtcdRefusedError as error:
            if _NO_LEASE in error.reason:
                return False
            raise
        return bool(answer.get("succeeded"))

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[int]:
        """Yield the revision of each change below `prefix` after that revision.

        Where etcd has forgotten what came after (it keeps some minutes), one number stands for all.
        """
        has_authenticated = False
        while True:
            body = {"create_request": {**_range_of(prefix), "start_revision": str(after + 1)}}
            async with aclosing(self.connection.stream("watch", body)) as answers:
                async for answer in answers:
                    if answer.get("canceled"):
                        break
                    for revision in _revisions(answer):
                        after = revision
                        yield revision
                else:
                    return
            reason = str(answer.get("cancel_reason", ""))
            if "compact_revision" in answer:
                after = max(after, int(answer["compact_revision"]))
                yield after
            elif (asks_who(reason) or _DENIED in reason) and not has_authenticated:
                has_authenticated = True
                await self.connection.authenticate_again()
            else:
                raise EtcdRefusedError(f"etcd ended a watch: {reason}", reason=reason)

    async def grant(self, seconds: float) -> int:
        """Return a new lease of whole seconds, at least 2 (etcd's least)."""
        body = {"TTL": str(math.ceil(seconds))}
        # Repeated, at worst one lease too many is there until it ends by itself.
        answer = await self.connection.call("lease/grant", body, is_repeatable=True)
        return int(answer["ID"])

    async def keep_alive(self, lease: int) -> bool:
        """Begin the lease's time anew; return False where it has ended."""
        answer = await self.connection.call(
            "lease/keepalive", {"ID": str(lease)}, is_repeatable=True
        )
        return int(answer.get("result", {}).get("TTL", 0)) > 0

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys; idempotent."""
        try:
            await self.connection.call("lease/revoke", {"ID": str(lease)}, is_repeatable=True)
        except EtcdRefusedError as error:
            if _NO_LEASE not in error.reason:
                raise

    async def close(self) -> None:
        """Let go of connections."""
        await self.connection.close()


def _range_of(prefix: str) -> dict[str, str]:
    # The key "\0" with the end "\0" is etcd's way to say all keys.
    return {"key": encoded(prefix or "\0"), "range_end": encoded(prefix_end(prefix))}


def _entry(found: dict[str, Any]) -> Entry:
    return Entry(
        key=b64decode(found["key"]).decode(),
        value=b64decode(found.get("value", "")),
        created=int(found["create_revision"]),
        modified=int(found["mod_revision"]),
    )


def _comparison(condition: Condition) -> dict[str, str]:
    compare = {"key": encoded(condition.key), "result": "EQUAL"}
    if isinstance(condition, IsUnchanged):
        return {**compare, "target": "MOD", "mod_revision": str(condition.modified)}
    return {**compare, "target": "CREATE", "create_revision": str(condition.created)}


def _operation(change: Change) -> dict[str, Any]:
    match change:
        case Put(key, value, lease):
            put = {"key": encoded(key), "value": encoded(value), "lease": str(lease)}
            return {"request_put": put}
        case Delete(key, is_prefix=True):
            return {"request_delete_range": _range_of(key)}
        case Delete(key):
            return {"request_delete_range": {"key": encoded(key)}}


def _revisions(answer: dict[str, Any]) -> list[int]:
    return sorted({int(event["kv"]["mod_revision"]) for event in answer.get("events", ())})


if TYPE_CHECKING:
    _: type[Store] = EtcdStore
