"""Names that every node may have in its certificates, besides its own."""

import json

from dtr.ucp import keys
from dtr.ucp.authority import AuthorityError, checked_name
from dtr.ucp.store import Store


async def web_names(store: Store) -> tuple[str, ...]:
    """Return what `/ucp/names` lists; what is no name there is left out."""
    entry = await store.get(keys.WEB_NAMES)
    if entry is None:
        return ()
    found = json.loads(entry.value)
    return tuple(name for name in found if _is_name(name)) if isinstance(found, list) else ()


def _is_name(name: object) -> bool:
    try:
        checked_name(str(name))
    except AuthorityError:
        return False
    return True
