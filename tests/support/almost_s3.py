"""A proxy before a real S3 server that does not know one of S3's operations."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO

import aiohttp
from aiohttp import web

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding"})


@dataclass
class AlmostS3:
    """Where the proxy is, what it refuses with which status, and what it was asked for."""

    endpoint: str = ""
    refuses: str = ""
    status: int = 501
    code: str = "NotImplemented"
    asked: list[str] = field(default_factory=list)


def operation_of(method: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """Return the name that S3 has for a request."""
    candidates = {
        "PUT": {
            "UploadPartCopy": "x-amz-copy-source" in headers,
            "UploadPart": "partNumber" in query,
            "PutObject": True,
        },
        "POST": {
            "CreateMultipartUpload": "uploads" in query,
            "DeleteObjects": "delete" in query,
            "CompleteMultipartUpload": True,
        },
        "GET": {
            "ListMultipartUploads": "uploads" in query,
            "ListParts": "uploadId" in query,
            "ListObjectsV2": "list-type" in query,
            "GetObject with Range": _is_late(headers),
            "GetObject": True,
        },
        "DELETE": {"AbortMultipartUpload": "uploadId" in query, "DeleteObject": True},
        "HEAD": {"HeadObject": True},
    }
    return next(name for name, is_it in candidates[method].items() if is_it)


def _is_late(headers: Mapping[str, str]) -> bool:
    """Whether a range begins after the first byte: a whole object may be asked for as one, too."""
    wanted = headers.get("range", "bytes=0-")
    return not wanted.startswith("bytes=0-")


@asynccontextmanager
async def almost_s3(endpoint: str) -> AsyncIterator[AlmostS3]:
    """Run a proxy before `endpoint`, in this loop."""
    proxy = AlmostS3()

    async def forward(request: web.Request) -> web.StreamResponse:
        headers = {k.lower(): v for k, v in request.headers.items() if k.lower() not in _HOP}
        operation = operation_of(request.method, request.query, headers)
        proxy.asked.append(operation)
        if operation == proxy.refuses:
            text = f"<Error><Code>{proxy.code}</Code><Message>no</Message></Error>"
            return web.Response(status=proxy.status, text=text, content_type="application/xml")
        body = await request.read()
        async with client.request(
            request.method,
            f"{endpoint}{request.raw_path}",
            headers=headers,
            data=BytesIO(body) if body else None,
            skip_auto_headers=("content-type", "accept", "user-agent"),
            allow_redirects=False,
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response

    application = web.Application(client_max_size=1 << 30)
    application.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(application, access_log=None)
    async with aiohttp.ClientSession(auto_decompress=False) as client:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        proxy.endpoint = f"http://{host}:{port}"
        try:
            yield proxy
        finally:
            await runner.cleanup()
