"""etcd's own users: who may do what, besides being let in by certificate.

The gateway cannot tell certificates apart, so that each that speaks to it has name and password:
`root` (controllers) may do everything, `patroni-<replica id>` may use Patroni's keys and no others.
"""

from collections.abc import Mapping
from typing import Any, Final

from dtr.ucp import keys
from dtr.ucp.etcd.connection import (
    EtcdConnection,
    EtcdLogin,
    EtcdRefusedError,
    encoded,
    prefix_end,
)

ROOT: Final = "root"
PATRONI_ROLE: Final = "patroni"

_EXISTS: Final = "name already exists"
_UNKNOWN_USER: Final = "user name not found"
_WRONG_PASSWORD: Final = "authentication failed"  # noqa: S105 - what etcd says
_NOT_ENABLED: Final = "authentication is not enabled"


def patroni_user(replica_id: str) -> str:
    """Return the name of a replica's user.

    >>> patroni_user("0123456789ab")
    'patroni-0123456789ab'
    """
    return f"patroni-{replica_id}"


class EtcdUsers:
    """Makes etcd's users and takes them away. Every method may be called again after any failure.

    Raises (all methods):
        EtcdRefusedError: etcd says no.
        UnavailableError: it did not answer in time.

    """

    def __init__(self, connection: EtcdConnection) -> None:
        """Use a connection that somebody else closes; once users are asked for, `root`'s."""
        self._connection = connection

    async def enable_authentication(self, root_password: str) -> None:
        """Let nobody in without a name: make `root` and the role of all Patronis, then enable.

        The connection is `root`'s from then on. A `root` that was made with another password before
        authentication was enabled gets this one; afterwards another password is refused.
        """
        self._connection.use_login(EtcdLogin(root_password, ROOT))
        await self._make_user(ROOT, root_password)
        await self._make("role/add", {"name": ROOT})
        await self._make("user/grant", {"user": ROOT, "role": ROOT})
        await self._make("role/add", {"name": PATRONI_ROLE})
        everything = {
            "permType": "READWRITE",
            "key": encoded(keys.PATRONI),
            "range_end": encoded(prefix_end(keys.PATRONI)),
        }
        await self._make("role/grant", {"name": PATRONI_ROLE, "perm": everything})
        await self._make("enable", {})

    async def add_patroni_user(self, replica_id: str, password: str) -> None:
        """Let a replica's Patroni in, with this password and no other."""
        name = patroni_user(replica_id)
        await self._make_user(name, password)
        await self._make("user/grant", {"user": name, "role": PATRONI_ROLE})

    async def remove_patroni_user(self, replica_id: str) -> None:
        """Let a replica's Patroni in no more; its tokens end at once."""
        try:
            await self._make("user/delete", {"name": patroni_user(replica_id)})
        except EtcdRefusedError as error:
            if _UNKNOWN_USER not in error.reason:
                raise

    async def _make_user(self, name: str, password: str) -> None:
        try:
            await self._call("user/add", {"name": name, "password": password})
        except EtcdRefusedError as error:
            if _EXISTS not in error.reason:
                raise
            # Not without need: a new password ends all of the user's tokens.
            if not await self._is_password(name, password):
                await self._call("user/changepw", {"name": name, "password": password})

    async def _is_password(self, name: str, password: str) -> bool:
        try:
            await self._call("authenticate", {"name": name, "password": password})
        except EtcdRefusedError as error:
            if _WRONG_PASSWORD in error.reason or _NOT_ENABLED in error.reason:
                return False
            raise
        return True

    async def _make(self, path: str, body: Mapping[str, Any]) -> None:
        try:
            await self._call(path, body)
        except EtcdRefusedError as error:
            if _EXISTS not in error.reason:
                raise

    async def _call(self, path: str, body: Mapping[str, Any]) -> None:
        # What is done twice is refused or changes nothing, so that it may be repeated.
        await self._connection.call(f"auth/{path}", body, is_repeatable=True)
