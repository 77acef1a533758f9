"""Patroni's loop runs at once when there is something to do, and not at its next turn.

Patroni 4.1 looks every `loop_wait`, five seconds here. A signal to read its configuration again
waits for that, and so does the primary when another member's tags change: of its own accord it only
notices another leader or another configuration in etcd. A replica that is counted in or out says so
by its tags, so that the operation waited twice for nothing.
"""
# ruff: noqa: SLF001 - Patroni offers no way that is public

import json
from base64 import b64decode
from collections.abc import Mapping
from threading import Thread
from typing import Any

from patroni.daemon import AbstractPatroniDaemon
from patroni.dcs.etcd3 import KVCache

_handle_signal = AbstractPatroniDaemon.sighup_handler
_process_event = KVCache._process_event


def wake_for_changes() -> None:
    """Have every Patroni in this process run its loop for a signal, and for other tags."""
    AbstractPatroniDaemon.sighup_handler = _handle_and_wake
    KVCache._process_event = _process_and_wake


def _handle_and_wake(daemon: AbstractPatroniDaemon, *arguments: Any) -> None:
    _handle_signal(daemon, *arguments)
    ha = getattr(daemon, "ha", None)
    if ha is not None:
        # On a thread: the one that was interrupted here may hold what an event is guarded by.
        Thread(target=ha.wakeup, daemon=True).start()


def _process_and_wake(cache: KVCache, event: Mapping[str, Any]) -> None:
    key = event["kv"]["key"]
    before = _tags(cache.get(key))
    _process_event(cache, event)
    is_member = b64decode(key).decode().startswith(cache._dcs.members_path)
    if is_member and _tags(cache.get(key)) != before:
        cache._dcs.event.set()


def _tags(entry: Mapping[str, Any] | None) -> Any:
    """Return the tags of a member as etcd has it; None for what is no member."""
    try:
        member = json.loads(b64decode((entry or {}).get("value") or ""))
    except ValueError:
        return None
    return member.get("tags") or {} if isinstance(member, dict) else None
