"""The HTTP floor: request, response, route, router, on bare ASGI.

A framework per request would cost more than the work (design 5); this is all that `/v2` needs.
"""

from dtr.asgi.request import ClientDisconnectError, Request
from dtr.asgi.response import Response
from dtr.asgi.routing import Endpoint, Handler, Route, Router

__all__ = [
    "ClientDisconnectError",
    "Endpoint",
    "Handler",
    "Request",
    "Response",
    "Route",
    "Router",
]
