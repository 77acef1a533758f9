"""Who calls: a node by its certificate, an administrator by session or password, or anybody."""

import base64
import binascii
import hmac
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from dtr.ucp import keys
from dtr.ucp.api import Access, ApiError
from dtr.ucp.authority import common_name, fingerprint_of_der, is_for_clients
from dtr.ucp.controller.sessions import Administrators, session_key
from dtr.ucp.model import Node
from dtr.ucp.store import IsUnchanged, Put, Store

_NODES: Final = frozenset({Access.NODE, Access.ANY_NODE_OR_ADMINISTRATOR})
_ADMINISTRATORS: Final = frozenset({Access.ADMINISTRATOR, Access.ANY_NODE_OR_ADMINISTRATOR})
_MAX_HEADER: Final = 4096


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls; `name` is an administrator's name or a node's id, empty for anybody."""

    name: str = ""
    is_node: bool = False
    session: str = ""
    fingerprint: str = ""
    password_changed_at: float = 0
    """When the password that was given, without a session, was set."""


class Gate:
    """Lets callers in, by what each route declares; called once for each request.

    A request whose body had to be waited for is looked at again (`require_still`).
    """

    def __init__(self, store: Store, administrators: Administrators) -> None:
        self._store = store
        self._administrators = administrators

    async def admit(
        self,
        access: Access,
        *,
        certificate: bytes | None,
        authorization: str,
        address: str,
        now: float,
    ) -> Caller:
        """Return who calls.

        `certificate` is what the client showed in the TLS handshake, which has checked that UCP's
        authority signed it and that the client has its key.

        Raises:
            ApiError: 401, they may not.

        """
        if access is Access.OPEN:
            return Caller()
        if access in _NODES and certificate is not None:
            return await self._node(certificate)
        if access in _ADMINISTRATORS:
            return await self._administrator(authorization, address, now)
        raise ApiError(401, "UNAUTHORIZED", "Only a node may do this, by its certificate.")

    async def require_still(self, caller: Caller) -> None:
        """Make sure that who was let in may still call, now that the body is here.

        Raises:
            ApiError: 401, they may not: the node is gone, the session over, the password another.

        """
        if caller.is_node:
            entry = await self._store.get(keys.node(caller.name))
            node = entry.document(Node) if entry else None
            shown = {node.fingerprint, node.previous_fingerprint} if node else set()
            is_still = caller.fingerprint in shown
        elif caller.session:
            is_still = await self._administrators.is_open(caller.session)
        elif caller.name:
            found = await self._administrators.find(caller.name)
            is_still = found is not None and found.changed_at == caller.password_changed_at
        else:
            return
        if not is_still:
            raise ApiError(401, "UNAUTHORIZED", "The login of this request ended while it ran.")

    async def _node(self, der: bytes) -> Caller:
        shown = fingerprint_of_der(der)
        certificate = x509.load_der_x509_certificate(der)
        node_id = common_name(certificate)
        entry = await self._store.get(keys.node(node_id)) if "/" not in node_id else None
        node = entry.document(Node) if entry else None
        if entry is None or node is None or not is_for_clients(certificate):
            raise ApiError(
                401, "NODE_UNKNOWN", "This machine is not a node of UCP any more. Join it again."
            )
        if hmac.compare_digest(shown, node.fingerprint):
            if node.previous_fingerprint:
                # From now on the one before is refused. Where another write was first, the next
                # request does it.
                settled = node.changed(previous_fingerprint="")
                unchanged = IsUnchanged(entry.key, entry.modified)
                await self._store.commit([Put(entry.key, settled.encoded())], [unchanged])
        elif not (
            node.previous_fingerprint and hmac.compare_digest(shown, node.previous_fingerprint)
        ):
            raise ApiError(
                401,
                "CERTIFICATE_REPLACED",
                "This certificate has been replaced by a newer one. Join the machine again if the "
                "newer one is lost.",
            )
        return Caller(node.id, is_node=True, fingerprint=shown)

    async def _administrator(self, authorization: str, address: str, now: float) -> Caller:
        scheme, _, credential = authorization[:_MAX_HEADER].partition(" ")
        if scheme.lower() == "bearer":
            token = credential.strip()
            name = await self._administrators.resume(token)
            if not name:
                raise ApiError(401, "UNAUTHORIZED", "The session has ended. Log in again.")
            return Caller(name, session=session_key(token))
        if scheme.lower() == "basic":
            name, password = _basic(credential)
            found = await self._administrators.verify(name, password, address, now)
            return Caller(found.name, password_changed_at=found.changed_at)
        raise ApiError(401, "UNAUTHORIZED", "Log in first: POST /auth/login.")


def _basic(credential: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(credential.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        raise ApiError(401, "UNAUTHORIZED", "The basic credentials cannot be read.") from None
    name, _, password = text.partition(":")
    return name, password
