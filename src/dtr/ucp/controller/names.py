"""Names that every node may have in its certificates, besides its own."""

import json

from dtr.ucp import keys
from dtr.ucp.authority import AuthorityError, checked_name
from dtr.ucp.store import Store


async def web_names(store: Store) -> tuple[str, ...]:
    """Return what the lists at and below `/ucp/names` have; what is no name there is left out."""
    entries, _ = await store.list(keys.WEB_NAMES)
    lists = [json.loads(entry.value) for entry in entries]
    names = [name for found in lists if isinstance(found, list) for name in found]
    return tuple(dict.fromkeys(name for name in names if _is_name(name)))


def _is_name(name: object) -> bool:
    if not isinstance(name, str):
        return False
    try:
        checked_name(name)
    except AuthorityError:
        return False
    return True
