"""What this room adds to the controllers' API: the cluster's status, and what would be done."""

import secrets
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from dtr import __version__
from dtr.cluster import model, operations
from dtr.cluster.loop import read_view
from dtr.cluster.model import WebCertificate
from dtr.cluster.plan import SCRIPTS
from dtr.cluster.plan_actions import Context, Fail
from dtr.cluster.plan_majority import summary
from dtr.cluster.specifications import certificates_in
from dtr.cluster.status import cluster_status
from dtr.cluster.view import ClusterView
from dtr.model.documents import JsonInvalidError, load_json
from dtr.ucp.api import Access, ApiError, ApiRequest, ApiRoute, OperationKind
from dtr.ucp.authority import AuthorityError, expires_at, load_certificate
from dtr.ucp.model import Operation
from dtr.ucp.store import Put

_MOST_PEM: Final = 64 * 1024
_MOST_ARGUMENTS: Final = 64 * 1024


class BroughtCertificate(BaseModel):
    """A web certificate of the user's."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    certificate: str = Field(min_length=1, max_length=_MOST_PEM)
    key: str = Field(min_length=1, max_length=_MOST_PEM, repr=False)


def routes() -> list[ApiRoute]:
    """Return the routes."""
    return [
        ApiRoute("GET", "/dtr/status", Access.ANY_NODE_OR_ADMINISTRATOR, status),
        ApiRoute("GET", "/dtr/replicas", Access.ADMINISTRATOR, replicas),
        ApiRoute("GET", "/dtr/balancers", Access.ADMINISTRATOR, balancers),
        ApiRoute("GET", "/dtr/plan", Access.ADMINISTRATOR, plan),
        ApiRoute("POST", "/dtr/certificates", Access.ADMINISTRATOR, bring_certificate),
    ]


def kinds() -> list[OperationKind]:
    """Return the operations that may be asked for."""
    return operations.kinds()


async def status(request: ApiRequest) -> JsonValue:
    """Return how the cluster is, in the original's shape and more."""
    return cluster_status(await _view(request), request.now)


async def replicas(request: ApiRequest) -> JsonValue:
    """Return the replicas alone, and the ids of former ones."""
    view = await _view(request)
    former = view.cluster.former_replicas if view.cluster else ()
    return {
        "replicas": cluster_status(view, request.now)["replicas"],
        "former_replicas": list(former),
        "is_installed": view.cluster is not None,
    }


async def balancers(request: ApiRequest) -> JsonValue:
    """Return the balancers, and the pool that all of them have."""
    view = await _view(request)
    shown = cluster_status(view, request.now)
    return {
        "balancers": shown["balancers"],
        "pool": shown["pool"],
        "others": _other_balancers(view),
        "has_users_certificate": bool(view.cluster and view.cluster.web_certificate),
    }


def _other_balancers(view: ClusterView) -> JsonValue:
    """Return the networks of balancers that are not of this cluster."""
    settings = view.cluster.settings if view.cluster else {}
    return settings.get("server", {}).get("balancers", [])


async def plan(request: ApiRequest) -> JsonValue:
    """Return what an operation would do: its phases, and why it would be refused.

    Nothing is changed; what a network test or a node's ports would say is not known.
    """
    kind = request.query.get("kind", "")
    if not operations.is_ours(kind):
        raise ApiError(400, "INVALID", f"There is no operation {kind[:80]!r}.")
    arguments = operations.checked(kind, _arguments(request.query.get("arguments", "{}")))
    view = await _view(request)
    operation = Operation(
        id="",
        kind=kind,
        arguments=arguments,
        created_by=request.caller,
        created_at=request.now,
        updated_at=request.now,
    )
    script = SCRIPTS[kind](operation)
    outcome = script.steps[0].run(Context(view, request.now, operation))
    return {
        "kind": kind,
        "arguments": arguments,
        "problem": outcome.error if isinstance(outcome, Fail) else "",
        "phases": [step.name for step in script.steps],
        **summary(view),
    }


async def bring_certificate(request: ApiRequest) -> JsonValue:
    """Keep a web certificate for the operation that will name it; unused, for an hour."""
    try:
        brought = BroughtCertificate.model_validate(request.body)
        expires = expires_at(brought.certificate)
    except (ValidationError, AuthorityError):
        raise ApiError(
            400, "INVALID", "certificate and key are needed, both in PEM format."
        ) from None
    if not _belong_together(brought.certificate, brought.key):
        raise ApiError(
            400,
            "INVALID",
            "The key does not belong to the web certificate. Give a certificate and its own key.",
        )
    if expires <= request.now:
        raise ApiError(400, "INVALID", "The web certificate has expired. Give a valid one.")
    kept = WebCertificate(
        id=secrets.token_hex(8),
        # Of a file that holds the key, too, the certificates alone: they go to every balancer.
        certificate="".join(f"{each}\n" for each in certificates_in(brought.certificate)),
        key=brought.key,
        created_at=request.now,
    )
    await request.store.commit([Put(f"{model.WEB_CERTIFICATES}{kept.id}", kept.encoded())])
    return {"id": kept.id, "expires_at": expires}


async def _view(request: ApiRequest) -> ClusterView:
    try:
        return await read_view(request.store, __version__, 0)
    except ValidationError as error:
        raise ApiError(
            500,
            "UNREADABLE",
            f"A record of the cluster cannot be read by this version ({error.title}). "
            "Install the version that wrote it, or a later one.",
        ) from None


def _belong_together(certificate: str, key: str) -> bool:
    """Return whether a private key, without a password, is the certificate's."""
    try:
        own = load_pem_private_key(key.encode(), None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return own.public_bytes(*form) == load_certificate(certificate).public_key().public_bytes(*form)


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = load_json(text[:_MOST_ARGUMENTS].encode())
    except JsonInvalidError:
        found = None
    if not isinstance(found, dict):
        raise ApiError(400, "INVALID", "arguments must be a JSON object.")
    return found
