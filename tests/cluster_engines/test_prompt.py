"""Patroni's loop, which does not wait for its turn where there is something to do."""

import json
import os
import signal
import time
from base64 import b64encode
from threading import Event, Lock
from types import SimpleNamespace
from typing import Any

import pytest
from patroni.daemon import AbstractPatroniDaemon
from patroni.dcs.etcd3 import KVCache

from dtr.cluster.engines.patroni_process.prompt import wake_for_changes

ROOT = "/db/registry/"
STANDBY = f"{ROOT}members/aaaaaaaaaaaa"


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Patroni changed as in its own process, for as long as the test runs."""
    monkeypatch.setattr(
        AbstractPatroniDaemon, "sighup_handler", AbstractPatroniDaemon.sighup_handler
    )
    monkeypatch.setattr(KVCache, "_process_event", KVCache._process_event)
    wake_for_changes()


@pytest.fixture
def cache() -> KVCache:
    """Give what a Patroni knows of etcd, without an etcd."""
    cache = KVCache.__new__(KVCache)
    cache._dcs = SimpleNamespace(members_path=f"{ROOT}members/", event=Event())
    cache._object_cache, cache._object_cache_lock = {}, Lock()
    for name in ("config", "leader", "optime", "status"):
        setattr(cache, f"_{name}_key", encoded(f"{ROOT}{name}"))
    cache._name = encoded("bbbbbbbbbbbb")
    return cache


def encoded(text: str) -> str:
    """Give text as etcd's gateway does."""
    return b64encode(text.encode()).decode()


def wakes(cache: KVCache, revision: int, key: str, value: dict[str, Any] | None) -> bool:
    """Tell whether a change in etcd has the loop run; None: the key is deleted."""
    cache._dcs.event.clear()
    kv = {"key": encoded(key), "mod_revision": str(revision)}
    if value is None:
        cache._process_event({"type": "DELETE", "kv": kv})
    else:
        cache._process_event({"kv": {**kv, "value": encoded(json.dumps(value))}})
    return bool(cache._dcs.event.is_set())


def test_other_tags_of_a_member_have_the_loop_run(cache: KVCache) -> None:
    """It is counted in or out; how far it is, which changes all the time, is no reason."""
    assert wakes(cache, 1, STANDBY, {"xlog_location": 1, "tags": {"nosync": True}})
    assert wakes(cache, 2, STANDBY, {"xlog_location": 1})
    assert not wakes(cache, 3, STANDBY, {"xlog_location": 2})
    assert not wakes(cache, 4, STANDBY, {"xlog_location": 2, "tags": {}})
    assert wakes(cache, 5, STANDBY, {"xlog_location": 2, "tags": {"nosync": True}})
    assert wakes(cache, 6, STANDBY, None)


def test_other_keys_are_as_before(cache: KVCache) -> None:
    """The leader's has the loop run, and nobody else's; damage is no reason."""
    assert wakes(cache, 1, f"{ROOT}leader", {"name": "aaaaaaaaaaaa"})
    assert not wakes(cache, 2, f"{ROOT}history", {"tags": {"nosync": True}})
    assert not wakes(cache, 3, f"{ROOT}failsafe", {})


def test_a_signal_to_read_the_configuration_has_the_loop_run() -> None:
    """At once, and the configuration is still read at its beginning."""
    woken = Event()

    class Daemon(AbstractPatroniDaemon):  # type: ignore[misc]  # Patroni has no types for us
        ha = SimpleNamespace(wakeup=woken.set)

        def __init__(self) -> None:
            self.setup_signal_handlers()

        def _run_cycle(self) -> None:
            """Never run here."""

        def _shutdown(self) -> None:
            """Nothing to end."""

    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    try:
        daemon = Daemon()
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0)
        assert woken.wait(10)
        assert daemon._received_sighup
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
