"""What a backup of the control plane has in it: `GET /backup`."""

import json

from pydantic import JsonValue

from dtr.ucp import keys
from dtr.ucp.api import Access, ApiRequest, ApiRoute

_UCP = "/ucp/"
_NOT_KEPT = (
    keys.SESSIONS,
    keys.REPORTS,
    keys.PROBES,
    keys.LEADER,
    keys.JOINS,
    keys.KEYRING,
    keys.NODE_KEYS,
)


def backup_routes() -> list[ApiRoute]:
    """Return the route."""
    return [ApiRoute("GET", "/backup", Access.ADMINISTRATOR, backup)]


async def backup(request: ApiRequest) -> JsonValue:
    """Return all documents of one moment, secrets and the authority's key among them.

    Sessions, reports and locks are not: they mean nothing later. Nor are engines' keys: a control
    plane that begins again makes others.
    """
    entries, revision = await request.store.list(_UCP)
    documents: dict[str, JsonValue] = {
        entry.key: json.loads(entry.value)
        for entry in entries
        if not entry.key.startswith(_NOT_KEPT) and entry.key != keys.OPERATION_LOCK
    }
    return {"revision": revision, "made_at": request.now, "documents": documents}
