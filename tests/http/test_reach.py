"""OPTIONS, other sites' pages, a path before everything, and addresses with scheme and host."""

import re

import pytest
from tests.http.asgi import Answer, ask
from tests.http.client import Client, basic
from tests.http.conftest import OpenRegistry
from tests.http.targets import InProcess, Node
from tests.http.wire import say

from dtr.model.digest import Digest
from dtr.server.settings import Settings
from dtr.testing.registry import ALICE

SITE = "https://ui.example"
AUTH = (b"authorization", basic(*ALICE).encode())
CONTENT = b"reached"
UPLOADS = "/v2/alice/reach/blobs/uploads/"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v2/", "GET, HEAD, OPTIONS"),
        ("/v2/alice/app/manifests/latest", "GET, PUT, DELETE, HEAD, OPTIONS"),
        ("/", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    ],
)
async def test_options_says_what_a_path_takes(anonymous: Client, path: str, allowed: str) -> None:
    """RFC 9110 9.3.7, and HAProxy's bare `httpchk`, which asks so at the root."""
    answer = await anonymous.request("OPTIONS", path)
    assert answer.status_code == 204
    assert answer.headers["Allow"] == allowed
    assert "Content-Length" not in answer.headers


async def test_options_of_what_is_not_there_is_404(anonymous: Client) -> None:
    """There is no method that it would take."""
    assert (await anonymous.request("OPTIONS", "/nowhere")).status_code == 404


@pytest.mark.server
def test_a_bare_health_check_of_haproxy_is_answered(node: Node) -> None:
    """As it sends it: HTTP/1.0 and no Host."""
    heard = say(node.url, b"OPTIONS / HTTP/1.0\r\n\r\n")
    assert heard.status == 204


async def asked(
    target: InProcess, method: str, path: str, *headers: tuple[bytes, bytes], body: bytes = b""
) -> Answer:
    """Send a request; a query may stand in the path."""
    path, _, query = path.partition("?")
    lines = [(b"host", b"registry.test"), *headers]
    return await ask(
        target.application, method, path, query=query.encode(), headers=lines, body=[body]
    )


async def test_other_sites_pages_are_let_in_by_setting(open_registry: OpenRegistry) -> None:
    """Those that are named and no others; they can read errors as well."""
    target = open_registry({"server": {"cors_origins": [SITE]}})
    preflight = (b"access-control-request-method", b"PUT")
    answer = await asked(target, "OPTIONS", UPLOADS, (b"origin", SITE.encode()), preflight)
    assert answer.status == 204
    assert answer.header("access-control-allow-origin") == SITE
    assert "Authorization" in answer.header("access-control-allow-headers")
    assert "PUT" in answer.header("access-control-allow-methods")
    refused = await asked(target, "GET", "/v2/", (b"origin", SITE.encode()))
    assert refused.status == 401
    assert refused.header("access-control-allow-origin") == SITE
    assert "WWW-Authenticate" in refused.header("access-control-expose-headers")
    for origin in (b"https://evil.example", b"null", b"https://ui.example.evil.example"):
        other = await asked(target, "OPTIONS", UPLOADS, (b"origin", origin), preflight)
        assert not other.header("access-control-allow-origin")
        assert other.header("vary") == "Origin"
    assert not answer.header("access-control-allow-credentials")


async def test_every_site_may_be_let_in(open_registry: OpenRegistry) -> None:
    """The answer is then the same for all of them."""
    target = open_registry({"server": {"cors_origins": "*"}})
    answer = await asked(target, "GET", "/v2/", (b"origin", b"https://any.example"))
    assert answer.header("access-control-allow-origin") == "*"
    assert not answer.header("vary")


@pytest.mark.parametrize("origin", ["", "http://registry.test"])
@pytest.mark.parametrize("prefix", ["", "/registry", "/a/b"])
async def test_addresses_are_as_clients_can_use_them(
    open_registry: OpenRegistry, prefix: str, origin: str
) -> None:
    """Realm, Location and Link, below the prefix and with scheme and host where that is set."""
    settings = {"path_prefix": prefix, "absolute_locations": bool(origin)}
    target = open_registry({"server": settings})
    before = origin + prefix
    refused = await asked(target, "GET", f"{prefix}/v2/")
    assert f'realm="http://registry.test{prefix}/auth/token"' in refused.header("www-authenticate")
    begun = await asked(target, "POST", f"{prefix}{UPLOADS}", AUTH)
    assert re.fullmatch(f"{re.escape(before + UPLOADS)}[^/]+", begun.header("location"))
    upload = begun.header("location").removeprefix("http://registry.test")
    digest = Digest.of(CONTENT)
    done = await asked(target, "PUT", f"{upload}?digest={digest}", AUTH, body=CONTENT)
    assert done.status == 201
    assert done.header("location") == f"{before}/v2/alice/reach/blobs/{digest}"
    index = b"application/vnd.oci.image.index.v1+json"
    manifest = b'{"schemaVersion":2,"mediaType":"%b","manifests":[]}' % index
    kind = (b"content-type", index)
    for tag in ("one", "two"):
        path = f"{prefix}/v2/alice/reach/manifests/{tag}"
        assert (await asked(target, "PUT", path, AUTH, kind, body=manifest)).status == 201
    listed = await asked(target, "GET", f"{prefix}/v2/alice/reach/tags/list?n=1", AUTH)
    assert listed.header("link").startswith(f"<{before}/v2/alice/reach/tags/list?")


async def test_nothing_is_served_beside_a_prefix(open_registry: OpenRegistry) -> None:
    """But what balancers and monitors ask for, which know no prefix."""
    target = open_registry({"server": {"path_prefix": "/registry/"}})
    for path in ("/v2/", "/auth/token", "/registryv2/", "/registry", "/REGISTRY/v2/"):
        assert (await asked(target, "GET", path, AUTH)).status == 404, path
    for path in ("/_ping", "/registry/_ping", "/health"):
        assert (await asked(target, "GET", path)).status == 200, path
    assert (await asked(target, "OPTIONS", "/")).status == 204


@pytest.mark.parametrize(
    "server",
    [
        {"path_prefix": "registry"},
        {"path_prefix": "/a//b"},
        {"path_prefix": "/.."},
        {"path_prefix": "/a b"},
        {"cors_origins": ["ui.example"]},
        {"cors_origins": ["https://ui.example/page"]},
        {"cors_origins": ["https://ui.example/"]},
    ],
)
def test_what_is_no_prefix_and_no_site_is_refused(server: dict[str, object]) -> None:
    """With the settings, and not at the first request."""
    with pytest.raises(ValueError, match="must"):
        Settings.model_validate({"server": server})
