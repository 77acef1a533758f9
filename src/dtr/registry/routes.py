"""The distribution API's endpoints and the access each one declares."""

from dtr.asgi import Endpoint, Request, Response, Route
from dtr.asgi.routing import Handler
from dtr.model.access import ACCOUNT, CATALOG, MAY_DELETE, MAY_PULL, MAY_PUSH
from dtr.registry.context import RegistryContext
from dtr.registry.discovery import Discovery
from dtr.registry.pull import Pull
from dtr.registry.push import Push
from dtr.registry.uploads import Uploads


def registry_routes(context: RegistryContext) -> list[Route]:
    """Return the routes of `/v2/`, the hottest first."""
    pull, push, uploads = Pull(context), Push(context), Uploads(context)
    discovery = Discovery(context)

    def changes(handler: Handler) -> Handler:
        """Return a handler that is passed only while the registry takes pushes."""

        async def guarded(request: Request) -> Response:
            await context.read_only.require()
            return await handler(request)

        return guarded

    start = {"POST": Endpoint(changes(uploads.start), MAY_PUSH)}
    return [
        Route("/v2/", {"GET": Endpoint(base, ACCOUNT)}),
        Route("/v2", {"GET": Endpoint(base, ACCOUNT)}),
        Route("/v2/_catalog", {"GET": Endpoint(discovery.catalog, CATALOG)}),
        Route(
            "/v2/{name}/manifests/{reference}",
            {
                "GET": Endpoint(pull.manifest, MAY_PULL),
                "PUT": Endpoint(changes(push.put), MAY_PUSH, has_etags=True),
                "DELETE": Endpoint(changes(push.delete), MAY_DELETE, has_etags=True),
            },
        ),
        Route("/v2/{name}/blobs/uploads/", start),
        Route("/v2/{name}/blobs/uploads", start),
        Route(
            "/v2/{name}/blobs/uploads/{upload}",
            {
                "GET": Endpoint(uploads.status, MAY_PUSH),
                "PATCH": Endpoint(changes(uploads.append), MAY_PUSH),
                "PUT": Endpoint(changes(uploads.finish), MAY_PUSH),
                "DELETE": Endpoint(changes(uploads.cancel), MAY_PUSH),
            },
        ),
        Route(
            "/v2/{name}/blobs/{digest}",
            {
                "GET": Endpoint(pull.blob, MAY_PULL),
                "DELETE": Endpoint(changes(uploads.delete_blob), MAY_DELETE, has_etags=True),
            },
        ),
        Route("/v2/{name}/tags/list", {"GET": Endpoint(discovery.tags, MAY_PULL)}),
        Route("/v2/{name}/referrers/{digest}", {"GET": Endpoint(discovery.referrers, MAY_PULL)}),
    ]


async def base(_request: Request) -> Response:
    """Answer that this is a registry, and that the credentials are good (end-1)."""
    return Response.json({})
