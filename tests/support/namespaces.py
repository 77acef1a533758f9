"""Networks of their own: a bridge that no packet leaves, and cables to it that can be pulled."""

import asyncio
import ctypes
import gc
import os
import signal
import subprocess
import threading
import warnings
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.support.processes import requires, requires_root

T = TypeVar("T")

_PREFIX = "dtr-"
_DIRECTORY = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_numbers = count()


def require_namespaces() -> None:
    """Skip the test where machines cannot be made: not root, no programs, or not allowed."""
    requires_root("a machine of namespaces")
    requires("ip", "nsenter", "unshare", "setpriv", "iptables", "mount", "fsfreeze")
    probe = ["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--mount-proc"]
    mounts = "mount -t tmpfs tmpfs /run && ip link add name one type veth peer name two"
    done = subprocess.run([*probe, "sh", "-c", mounts], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"namespaces are not allowed on this machine: {done.stderr.strip()}")


class Network:
    """A bridge in a namespace of its own, and a namespace with a cable for each machine.

    The host's own network is never touched. The names carry the id of this process, so that what a
    killed one left is found: `remove_stale_namespaces`.
    """

    def __init__(self) -> None:
        self._name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        self._bridge = f"{self._name}-bridge"
        self._namespaces: list[str] = []

    def open(self) -> None:
        """Make the bridge."""
        remove_stale_namespaces()
        self._add(self._bridge)
        _ip("-n", self._bridge, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._bridge, "link", "set", "bridge", "up")

    def plug_in(self, name: str, address: str) -> str:
        """Make the namespace of a machine with `eth0` at this address; return its name.

        An address of IPv6 is there at once: nobody else on this bridge could have it.
        """
        namespace = f"{self._name}-{name}"
        self._add(namespace)
        pair = ("eth0", "type", "veth", "peer", "name", name, "netns", self._bridge)
        _ip("-n", namespace, "link", "add", *pair)
        _ip("-n", self._bridge, "link", "set", "dev", name, "master", "bridge", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        own = (f"{address}/64", "nodad") if ":" in address else (f"{address}/24",)
        _ip("-n", namespace, "address", "add", *own, "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        return namespace

    def pull_cable(self, name: str) -> None:
        """Let nothing reach a machine any more, nor come from it."""
        _ip("-n", self._bridge, "link", "set", "dev", name, "down")

    def put_cable_back(self, name: str) -> None:
        """Undo `pull_cable`."""
        _ip("-n", self._bridge, "link", "set", "dev", name, "up")

    def close(self) -> None:
        """Remove all of it."""
        for namespace in reversed(self._namespaces):
            _remove(namespace)
        self._namespaces.clear()

    def _add(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self._namespaces.append(namespace)


def remove_stale_namespaces() -> None:
    """Remove what test processes left that were killed, with everything that runs in there."""
    for path in _DIRECTORY.glob(f"{_PREFIX}*-*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            _remove(path.name)


class NamespaceThread:
    """An event loop in a thread whose sockets are in the network of a namespace."""

    def __init__(self, namespace: str) -> None:
        self._loop = asyncio.new_event_loop()
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(namespace, ready), daemon=True)
        self._thread.start()
        ready.result(10)

    def begin(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Begin work there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T], *, seconds: float = 60) -> T:
        """Do work there and give what it gives.

        Raises:
            TimeoutError: it was not done in time, and has been cancelled.

        """
        future = self.begin(work)
        try:
            return future.result(seconds)
        finally:
            future.cancel()

    def close(self) -> None:
        """End the thread, once what runs there has been cancelled."""

        async def cancel_all() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._loop.shutdown_default_executor()

        self.call(cancel_all(), seconds=30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        _forget_connections()

    def _run(self, namespace: str, ready: "Future[None]") -> None:
        try:
            enter_network(namespace)
        except OSError as error:
            ready.set_exception(error)
            return
        asyncio.set_event_loop(self._loop)
        ready.set_result(None)
        self._loop.run_forever()


def enter_network(namespace: str) -> None:
    """Give the sockets that this thread opens from now on to the network of a namespace.

    Raises:
        OSError: there is none of that name, or it is not allowed.

    """
    libc = ctypes.CDLL(None, use_errno=True)
    with (_DIRECTORY / namespace).open("rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), namespace)


def _remove(namespace: str) -> None:
    pids = _ip("netns", "pids", namespace).split()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "delete", namespace)


def _ip(*arguments: str) -> str:
    done = subprocess.run([requires("ip"), *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _forget_connections() -> None:
    """Collect the connections that httpcore left open, whose TLS handshake was cancelled.

    The loop kept them until it was closed. They would be found in the midst of any later test.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
