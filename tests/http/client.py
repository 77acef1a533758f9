"""A client of the registry under test: who asks, and what pushing and pulling takes."""

import base64
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from dtr.model.digest import Algorithm, Digest
from dtr.model.manifests import OCI_INDEX, OCI_MANIFEST

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
CODES = frozenset(
    {"BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID"}
    | {"MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID"}
    | {"NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS"}
)
"""The fourteen codes of the distribution specification."""

Content = bytes | AsyncIterator[bytes] | None


@dataclass(frozen=True)
class Client:
    """Asks the registry as somebody; `authorization` is empty for nobody."""

    http: httpx.AsyncClient
    name: str = ""
    authorization: str = field(default="", repr=False)

    def login(self, name: str, password: str) -> "Client":
        """Return a client with basic credentials."""
        return Client(self.http, name, basic(name, password))

    def bearing(self, token: str) -> "Client":
        """Return a client with a bearer token."""
        return replace(self, authorization=f"Bearer {token}")

    async def scoped(self, *scopes: str) -> "Client":
        """Return this client with a bearer token for the scopes, as docker would ask for it."""
        return self.bearing(await self.token(*scopes))

    async def token(self, *scopes: str) -> str:
        """Return a bearer token for the scopes."""
        answer = await self.get("/auth/token", params={"service": "dtr", "scope": list(scopes)})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: Content = None,
        params: Mapping[str, str | int | Sequence[str]] | None = None,
    ) -> httpx.Response:
        """Ask for a path, or for a Location that was answered."""
        sent = {"Authorization": self.authorization} if self.authorization else {}
        return await self.http.request(
            method, path, headers={**sent, **(headers or {})}, content=content, params=params
        )

    async def get(self, path: str, **rest: Any) -> httpx.Response:
        """GET."""
        return await self.request("GET", path, **rest)

    async def head(self, path: str, **rest: Any) -> httpx.Response:
        """HEAD."""
        return await self.request("HEAD", path, **rest)

    async def post(self, path: str, **rest: Any) -> httpx.Response:
        """POST."""
        return await self.request("POST", path, **rest)

    async def put(self, path: str, **rest: Any) -> httpx.Response:
        """PUT."""
        return await self.request("PUT", path, **rest)

    async def patch(self, path: str, **rest: Any) -> httpx.Response:
        """PATCH."""
        return await self.request("PATCH", path, **rest)

    async def delete(self, path: str, **rest: Any) -> httpx.Response:
        """DELETE."""
        return await self.request("DELETE", path, **rest)

    def repository(self, name: str) -> "Repository":
        """Return the repository called `name` as this client sees it."""
        return Repository(self, name)

    def new_repository(self, prefix: str = "app") -> "Repository":
        """Return a repository of this client's that nobody has used; a push creates it."""
        return Repository(self, f"{self.name}/{prefix}-{secrets.token_hex(4)}")


@dataclass(frozen=True)
class Image:
    """A manifest that was pushed, and its blobs."""

    payload: bytes
    digest: Digest
    config: Digest
    layers: tuple[Digest, ...]


@dataclass(frozen=True)
class Repository:
    """A repository as one client sees it."""

    client: Client
    name: str

    def seen_by(self, client: Client) -> "Repository":
        """Return the same repository as another client sees it."""
        return replace(self, client=client)

    def blob(self, digest: str) -> str:
        """Return the path of a blob."""
        return f"/v2/{self.name}/blobs/{digest}"

    def manifest(self, reference: str) -> str:
        """Return the path of a manifest."""
        return f"/v2/{self.name}/manifests/{reference}"

    @property
    def uploads(self) -> str:
        """The path where uploads begin."""
        return f"/v2/{self.name}/blobs/uploads/"

    @property
    def tags(self) -> str:
        """The path of the tags."""
        return f"/v2/{self.name}/tags/list"

    def referrers(self, digest: str) -> str:
        """Return the path of a manifest's referrers."""
        return f"/v2/{self.name}/referrers/{digest}"

    async def push_blob(self, content: bytes, algorithm: Algorithm = Algorithm.SHA256) -> Digest:
        """Push a blob in one request."""
        digest = Digest.of(content, algorithm)
        answer = await self.client.post(self.uploads, params={"digest": digest}, content=content)
        assert answer.status_code == 201, answer.text
        return digest

    async def start_upload(self, **parameters: str) -> str:
        """Open an upload session; return its location."""
        answer = await self.client.post(self.uploads, params=parameters)
        assert answer.status_code == 202, answer.text
        return answer.headers["Location"]

    async def put_manifest(
        self,
        document: Mapping[str, Any] | bytes,
        reference: str | None = None,
        *,
        content_type: str | None = None,
        params: Mapping[str, str | Sequence[str]] | None = None,
    ) -> httpx.Response:
        """PUT a manifest; by its digest where no reference is given."""
        payload = document if isinstance(document, bytes) else json.dumps(document).encode()
        if content_type is None:
            content_type = _media_type(document)
        return await self.client.put(
            self.manifest(reference or Digest.of(payload)),
            content=payload,
            headers={"Content-Type": content_type} if content_type else {},
            params=params,
        )

    async def push_manifest(
        self, document: Mapping[str, Any] | bytes, reference: str | None = None
    ) -> Digest:
        """Push a manifest that is accepted; return its digest."""
        answer = await self.put_manifest(document, reference)
        assert answer.status_code == 201, answer.text
        return Digest.parse(answer.headers["Docker-Content-Digest"])

    async def push_image(self, tag: str | None = None, *layers: bytes, **more: Any) -> Image:
        """Push config, layers and manifest; what is not given is random."""
        contents = layers or (secrets.token_bytes(100),)
        config = secrets.token_bytes(50)
        digests = [await self.push_blob(content) for content in (config, *contents)]
        document = image(config, *contents, **more)
        payload = json.dumps(document).encode()
        digest = await self.push_manifest(payload, tag)
        return Image(payload, digest, digests[0], tuple(digests[1:]))

    async def push_index(self, tag: str | None, *images: Image, **more: Any) -> Digest:
        """Push an index of images that are here."""
        return await self.push_manifest(index(*images, **more), tag)


def basic(name: str, password: str) -> str:
    """Return the Authorization header of basic credentials."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def descriptor(content: bytes, media_type: str = LAYER_TYPE, **more: Any) -> dict[str, Any]:
    """Return the descriptor of some content."""
    return {"mediaType": media_type, "digest": Digest.of(content), "size": len(content), **more}


def image(config: bytes, *layers: bytes, **more: Any) -> dict[str, Any]:
    """Return an OCI manifest."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config, CONFIG_TYPE),
        "layers": [descriptor(layer) for layer in layers],
        **more,
    }


def index(*images: Image, **more: Any) -> dict[str, Any]:
    """Return an OCI index."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor(one.payload, OCI_MANIFEST) for one in images],
        **more,
    }


def _media_type(document: Mapping[str, Any] | bytes) -> str:
    if isinstance(document, bytes):
        try:
            document = json.loads(document)
        except ValueError:
            return OCI_MANIFEST
    found = document.get("mediaType", "") if isinstance(document, Mapping) else ""
    return found if isinstance(found, str) else ""


def errors(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the errors in an answer, which must be the envelope of the specification."""
    assert answer.headers["Content-Type"] == "application/json", answer.headers
    document = answer.json()
    assert set(document) == {"errors"}
    found: list[dict[str, Any]] = document["errors"]
    assert found
    for error in found:
        assert set(error) == {"code", "message", "detail"}
        assert isinstance(error["message"], str)
        assert "Traceback" not in error["message"]
    return found


def assert_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is this error; return its entry."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
    assert code in CODES or status >= 500
    [entry] = errors(answer)
    assert entry["code"] == code
    return entry
