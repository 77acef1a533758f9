"""What agents ask for and tell; each only about its own node."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from dtr.ucp import keys
from dtr.ucp.api import Access, ApiError, ApiRequest, ApiRoute
from dtr.ucp.authority import (
    MAX_NAMES,
    MAX_REQUEST_BYTES,
    Authority,
    Purpose,
    checked_name,
    fingerprint,
    node_names,
)
from dtr.ucp.controller.budget import Rate, WriteBudget
from dtr.ucp.controller.names import web_names
from dtr.ucp.controller.waits import Waits
from dtr.ucp.model import MAX_REPORT_BYTES, Node, NodeReport
from dtr.ucp.store import Entry, IsUnchanged, Put
from dtr.ucp.wanted import wait_for_wanted

LONGEST_WAIT_SECONDS: Final = 20.0
REPORTS: Final = Rate(burst=2 * MAX_REPORT_BYTES, per_second=MAX_REPORT_BYTES / 2)
"""Bytes: the largest report every two seconds, as agents report."""
CERTIFICATES: Final = Rate(burst=10, per_second=0.1)
_LEAST_COST: Final = 8 * 1024
"""Of a report in bytes: a small one is a write, too."""
_MAX_DIGITS: Final = 19
_ATTEMPTS: Final = 5


class CertificateRequest(BaseModel):
    """A node's wish for a certificate."""

    model_config = ConfigDict(extra="ignore")

    csr: str = Field(max_length=MAX_REQUEST_BYTES)
    purpose: Literal[Purpose.NODE, Purpose.WEB] = Purpose.NODE
    """What this authority signs for whoever asks; engines' keys are of others."""
    names: list[str] = Field(default_factory=list, max_length=MAX_NAMES)
    """For a web certificate; a node's own has the node's names."""


class Agents:
    """The routes that only nodes may call.

    What each node writes is bounded in size and rate, and what it waits for in number.
    """

    def __init__(
        self,
        authority: Authority,
        is_time_agreed: Callable[[], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._authority = authority
        self._is_time_agreed = is_time_agreed
        self._reports = WriteBudget(REPORTS, monotonic)
        self._certificates = WriteBudget(CERTIFICATES, monotonic)
        self._waits = Waits()

    def routes(self) -> list[ApiRoute]:
        """Return the routes."""
        return [
            ApiRoute("GET", "/agent/wanted", Access.NODE, self.wanted),
            ApiRoute("POST", "/agent/report", Access.NODE, self.report),
            ApiRoute("GET", "/agent/time", Access.NODE, self.time),
            ApiRoute("POST", "/agent/certificate", Access.NODE, self.certificate),
        ]

    async def wanted(self, request: ApiRequest) -> JsonValue:
        """Return what the node is wanted to run once it differs from revision `after`.

        Null if it does not for a while, or once the node asks too many times at once.
        """
        after = request.query.get("after", "") or "0"
        if not after.isascii() or not after.isdigit() or len(after) > _MAX_DIGITS:
            raise ApiError(400, "INVALID", "after is a revision: a whole number.")
        found = await self._waits.newest(
            request.caller,
            wait_for_wanted(request.store, request.caller, int(after), LONGEST_WAIT_SECONDS),
        )
        return found.model_dump(mode="json") if found else None

    async def time(self, request: ApiRequest) -> JsonValue:
        """Return what time it is by most machines; null where too few agree."""
        return {"now": request.now if self._is_time_agreed() else None}

    async def report(self, request: ApiRequest) -> JsonValue:
        """Keep what an agent tells of its node."""
        told = NodeReport.model_validate(request.body)
        kept = told.changed(node_id=request.caller, received_at=request.now).encoded()
        if len(kept) > MAX_REPORT_BYTES:
            raise ApiError(413, "TOO_LARGE", "The report is larger than a node's can be.")
        self._reports.spend(request.caller, max(len(kept), _LEAST_COST))
        # Not for a node that was removed since the request was let in.
        entry, _ = await _own_node(request)
        still_there = IsUnchanged(entry.key, entry.modified)
        await request.store.commit([Put(keys.report(request.caller), kept)], [still_there])
        return {}

    async def certificate(self, request: ApiRequest) -> JsonValue:
        """Certify a key of the node.

        A node certificate takes the place of the one before, which is accepted until the node has
        shown the new one. A web certificate takes no place, and proves nothing but its names.
        """
        asked = CertificateRequest.model_validate(request.body)
        self._certificates.spend(request.caller, 1)
        if asked.purpose is Purpose.WEB:
            return await self._web_certificate(request, asked)
        for _ in range(_ATTEMPTS):
            entry, node = await _own_node(request)
            names = (
                *node_names(node.name, node.host_address),
                *await web_names(request.store),
            )
            certificate = self._signed(request, asked, names)
            renewed = node.changed(
                fingerprint=fingerprint(certificate),
                # What it shows now, not what was signed last: that answer may have been lost.
                previous_fingerprint=request.fingerprint,
            )
            if await request.store.commit(
                [Put(entry.key, renewed.encoded())], [IsUnchanged(entry.key, entry.modified)]
            ):
                return self._answer(certificate)
        raise ApiError(503, "BUSY", "Another request is changing the node. Try again.")

    async def _web_certificate(self, request: ApiRequest, asked: CertificateRequest) -> JsonValue:
        _, node = await _own_node(request)
        allowed = {
            *map(checked_name, node_names(node.name, node.host_address)),
            *map(checked_name, await web_names(request.store)),
        }
        wanted_names = list(dict.fromkeys(map(checked_name, asked.names))) or sorted(allowed)
        refused = [name for name in wanted_names if name not in allowed]
        if refused:
            raise ApiError(
                403,
                "NAME_REFUSED",
                f"This node may not get a certificate for {', '.join(refused)}.",
            )
        return self._answer(self._signed(request, asked, wanted_names))

    def _signed(
        self, request: ApiRequest, asked: CertificateRequest, names: tuple[str, ...] | list[str]
    ) -> str:
        return self._authority.sign(
            asked.csr,
            common_name=request.caller,
            names=names,
            now=datetime.fromtimestamp(request.now, UTC),
            purpose=asked.purpose,
        )

    def _answer(self, certificate: str) -> JsonValue:
        return {"certificate": certificate, "ca": self._authority.certificate_pem}


async def _own_node(request: ApiRequest) -> tuple[Entry, Node]:
    entry = await request.store.get(keys.node(request.caller))
    if entry is None:
        raise ApiError(401, "NODE_UNKNOWN", "This machine is not a node of UCP any more.")
    return entry, entry.document(Node)
