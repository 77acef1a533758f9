"""Which handler answers which path, and what access each declares."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from dtr.asgi.request import Request
from dtr.asgi.response import Response
from dtr.model.access import Access
from dtr.model.errors import MethodUnsupportedError, RouteUnknownError

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A handler and the access that it asks for; there is no default, so nothing is forgotten.

    `has_etags`: what it is about has entity tags, and the handler keeps to If-Match and
    If-None-Match (RFC 9110 13.1) itself, where it writes.
    """

    handler: Handler
    access: Access
    has_etags: bool = False


@dataclass(frozen=True)
class Route:
    """The endpoints of one path template, by method. GET answers HEAD too.

    In the template `{name}` is a repository name, which may have slashes; every other `{part}` is
    one component.
    """

    template: str
    endpoints: Mapping[str, Endpoint]
    pattern: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        pattern = re.sub(
            r"\{(\w+)\}", _group, re.escape(self.template).replace(r"\{", "{").replace(r"\}", "}")
        )
        object.__setattr__(self, "pattern", re.compile(pattern + r"\Z", re.DOTALL))

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that it answers."""
        return (*self.endpoints, *(("HEAD",) if "GET" in self.endpoints else ()))

    def endpoint(self, method: str) -> Endpoint:
        """Return what answers `method`.

        Raises:
            MethodUnsupportedError: nothing does.

        """
        found = self.endpoints.get("GET" if method == "HEAD" else method)
        if found is None:
            raise MethodUnsupportedError(self.methods)
        return found


def _group(part: re.Match[str]) -> str:
    return f"(?P<{part[1]}>{'.+' if part[1] == 'name' else '[^/]*'})"


class Router:
    """All routes; fixed paths are looked up, templates are tried in the order given."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._fixed = {route.template: route for route in self.routes if "{" not in route.template}
        self._templates = tuple(route for route in self.routes if "{" in route.template)

    def find(self, path: str) -> tuple[Route, Mapping[str, str]]:
        """Return the route of `path` and the parts that its template names.

        Raises:
            RouteUnknownError: no route has this path.

        """
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed, {}
        for route in self._templates:
            match = route.pattern.match(path)
            if match is not None:
                return route, match.groupdict()
        raise RouteUnknownError(path=path[:200])
