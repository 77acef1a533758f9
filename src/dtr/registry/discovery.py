"""Content discovery: tags, referrers, catalog (distribution-spec end-8, end-12)."""

from typing import Any

import orjson

from dtr.asgi import Request, Response
from dtr.model.access import Principal
from dtr.model.digest import Digest
from dtr.model.manifests import OCI_INDEX
from dtr.registry import records
from dtr.registry.context import RegistryContext
from dtr.registry.paging import add_next_link, page_size, page_start

_REFERRERS_BYTES = 4 << 20
"""A page of referrers is itself an index, and so no larger than one."""


class Discovery:
    """Lists, in byte order, by pages that begin after a name."""

    def __init__(self, context: RegistryContext) -> None:
        self._context = context
        self._largest = context.settings.page_entries

    async def tags(self, request: Request) -> Response:
        """Answer the tags of a repository (end-8a, 8b)."""
        repository = request.existing_repository()
        count = page_size(request, self._largest)
        last = page_start(request)
        rows = await self._context.database.lookup_all(
            records.TAG_PAGE, {"repository_id": repository.id, "last": last, "count": count + 1}
        )
        return _page(request, rows, count, {"name": repository.name}, "tags")

    async def catalog(self, request: Request) -> Response:
        """Answer the repositories that the principal may pull from."""
        count = page_size(request, self._largest)
        principal: Principal = request.principal
        parameters = {"last": page_start(request), "count": count + 1}
        if principal.is_admin:
            rows = await self._context.database.lookup_all(records.CATALOG_PAGE, parameters)
        else:
            rows = await self._context.database.lookup_all(
                records.CATALOG_PAGE_OF_ACCOUNT,
                {**parameters, "account_id": principal.account_id},
            )
        return _page(request, rows, count, {}, "repositories")

    async def referrers(self, request: Request) -> Response:
        """Answer the manifests whose subject is the digest, filtered by type (end-12a, 12b).

        A repository that is yet to be created has none; the specification forbids to answer 404 to
        whoever may know that.
        """
        subject = Digest.parse(request.parameters["digest"])
        count = page_size(request, self._largest)
        # No media type has a space, but many have a plus that clients forget to encode.
        artifact_type = (request.query("artifactType") or "").replace(" ", "+")
        rows = await self._context.database.lookup_all(
            records.REFERRER_PAGE,
            {
                "repository_id": request.repository.id if request.repository else 0,
                "subject": subject,
                "last": page_start(request),
                "every": not artifact_type,
                "artifact_type": artifact_type,
                "count": count + 1,
                "most_bytes": _REFERRERS_BYTES,
            },
        )
        descriptors = [_descriptor(row) for row in rows[:count]]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors}
        response = Response.json(document, headers={b"content-type": OCI_INDEX.encode()})
        more: dict[str, str] = {}
        if artifact_type:
            response.add(b"oci-filters-applied", "artifactType")
            more["artifactType"] = artifact_type
        if descriptors and len(descriptors) < rows[0][5]:
            last = descriptors[-1]["digest"]
            add_next_link(response, request, count=count, last=last, **more)
        return response


def _page(
    request: Request, rows: list[tuple[Any, ...]], count: int, document: dict[str, Any], key: str
) -> Response:
    """Answer the first `count` of the rows; one row more says that there is a next page."""
    entries = [row[0] for row in rows[:count]]
    response = Response.json({**document, key: entries})
    if entries and len(rows) > count:
        add_next_link(response, request, count=count, last=entries[-1])
    return response


def _descriptor(row: tuple[Any, ...]) -> dict[str, Any]:
    """Return a descriptor as the specification has it."""
    digest, media_type, size, artifact_type, annotations, _ = row
    descriptor = {"mediaType": media_type, "digest": digest, "size": size}
    if artifact_type:
        descriptor["artifactType"] = artifact_type
    if annotations != "{}":
        descriptor["annotations"] = orjson.Fragment(annotations)
    return descriptor
