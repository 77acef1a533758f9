"""The one table from exception to OCI error code and HTTP status (distribution-spec, Error Codes).

The status is not a function of the code: a chunk that leaves a gap is BLOB_UPLOAD_INVALID with 416.
"""

from enum import StrEnum
from http import HTTPStatus

from dtr.asgi import Request, Response
from dtr.model import errors as e


class ErrorCode(StrEnum):
    """The fourteen codes of the specification, and two for what is the server's fault."""

    BLOB_UNKNOWN = "BLOB_UNKNOWN"
    BLOB_UPLOAD_INVALID = "BLOB_UPLOAD_INVALID"
    BLOB_UPLOAD_UNKNOWN = "BLOB_UPLOAD_UNKNOWN"
    DIGEST_INVALID = "DIGEST_INVALID"
    MANIFEST_BLOB_UNKNOWN = "MANIFEST_BLOB_UNKNOWN"
    MANIFEST_INVALID = "MANIFEST_INVALID"
    MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
    NAME_INVALID = "NAME_INVALID"
    NAME_UNKNOWN = "NAME_UNKNOWN"
    SIZE_INVALID = "SIZE_INVALID"
    UNAUTHORIZED = "UNAUTHORIZED"
    DENIED = "DENIED"
    UNSUPPORTED = "UNSUPPORTED"
    TOOMANYREQUESTS = "TOOMANYREQUESTS"
    UNAVAILABLE = "UNAVAILABLE"
    UNKNOWN = "UNKNOWN"


_TABLE: dict[type[e.RegistryError], tuple[ErrorCode, HTTPStatus]] = {
    e.NameUnknownError: (ErrorCode.NAME_UNKNOWN, HTTPStatus.NOT_FOUND),
    e.BlobUnknownError: (ErrorCode.BLOB_UNKNOWN, HTTPStatus.NOT_FOUND),
    e.ManifestUnknownError: (ErrorCode.MANIFEST_UNKNOWN, HTTPStatus.NOT_FOUND),
    e.UploadUnknownError: (ErrorCode.BLOB_UPLOAD_UNKNOWN, HTTPStatus.NOT_FOUND),
    e.UnknownError: (ErrorCode.NAME_UNKNOWN, HTTPStatus.NOT_FOUND),
    e.NameInvalidError: (ErrorCode.NAME_INVALID, HTTPStatus.BAD_REQUEST),
    e.TagInvalidError: (ErrorCode.MANIFEST_INVALID, HTTPStatus.BAD_REQUEST),
    e.DigestInvalidError: (ErrorCode.DIGEST_INVALID, HTTPStatus.BAD_REQUEST),
    e.SizeInvalidError: (ErrorCode.SIZE_INVALID, HTTPStatus.BAD_REQUEST),
    e.ManifestTooLargeError: (
        ErrorCode.MANIFEST_INVALID,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ),
    e.HeaderTooLargeError: (
        ErrorCode.UNSUPPORTED,
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    ),
    e.AddressTooLongError: (ErrorCode.UNSUPPORTED, HTTPStatus.REQUEST_URI_TOO_LONG),
    e.TooLargeError: (ErrorCode.SIZE_INVALID, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    e.ManifestInvalidError: (ErrorCode.MANIFEST_INVALID, HTTPStatus.BAD_REQUEST),
    e.ManifestBlobUnknownError: (ErrorCode.MANIFEST_BLOB_UNKNOWN, HTTPStatus.NOT_FOUND),
    e.UploadRangeError: (
        ErrorCode.BLOB_UPLOAD_INVALID,
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    ),
    e.UploadBusyError: (ErrorCode.BLOB_UPLOAD_INVALID, HTTPStatus.CONFLICT),
    e.UploadInvalidError: (ErrorCode.BLOB_UPLOAD_INVALID, HTTPStatus.BAD_REQUEST),
    e.RangeNotSatisfiableError: (
        ErrorCode.SIZE_INVALID,
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    ),
    e.RequestTimeoutError: (ErrorCode.BLOB_UPLOAD_INVALID, HTTPStatus.REQUEST_TIMEOUT),
    e.PreconditionFailedError: (ErrorCode.DENIED, HTTPStatus.PRECONDITION_FAILED),
    e.InvalidError: (ErrorCode.UNSUPPORTED, HTTPStatus.BAD_REQUEST),
    e.UnauthorizedError: (ErrorCode.UNAUTHORIZED, HTTPStatus.UNAUTHORIZED),
    e.ReferencedError: (ErrorCode.DENIED, HTTPStatus.CONFLICT),
    e.QuotaExceededError: (ErrorCode.TOOMANYREQUESTS, HTTPStatus.TOO_MANY_REQUESTS),
    e.DeniedError: (ErrorCode.DENIED, HTTPStatus.FORBIDDEN),
    e.MethodUnsupportedError: (ErrorCode.UNSUPPORTED, HTTPStatus.METHOD_NOT_ALLOWED),
    e.CodingUnsupportedError: (ErrorCode.UNSUPPORTED, HTTPStatus.NOT_IMPLEMENTED),
    e.UnsupportedError: (ErrorCode.UNSUPPORTED, HTTPStatus.BAD_REQUEST),
    e.TooManyRequestsError: (ErrorCode.TOOMANYREQUESTS, HTTPStatus.TOO_MANY_REQUESTS),
    e.StorageFullError: (ErrorCode.UNAVAILABLE, HTTPStatus.INSUFFICIENT_STORAGE),
    e.ContentDamagedError: (ErrorCode.UNKNOWN, HTTPStatus.INTERNAL_SERVER_ERROR),
    e.UnavailableError: (ErrorCode.UNAVAILABLE, HTTPStatus.SERVICE_UNAVAILABLE),
    e.RegistryError: (ErrorCode.UNKNOWN, HTTPStatus.INTERNAL_SERVER_ERROR),
}


_MAINTENANCE_SECONDS = "30"


def spoken(error: type[e.RegistryError]) -> tuple[ErrorCode, HTTPStatus]:
    """Return how an error class is said: by its own row, or by its nearest ancestor's."""
    return next(_TABLE[kind] for kind in error.__mro__ if kind in _TABLE)


def error_response(error: e.RegistryError, request: Request) -> Response:
    """Return the answer that says `error`, with the headers that help the client go on."""
    code, status = spoken(type(error))
    entry = {"code": code, "message": str(error), "detail": error.detail}
    response = Response.json({"errors": [entry]}, status)
    match error:
        case e.UnauthorizedError(challenge=challenge) if challenge:
            response.add(b"www-authenticate", challenge)
        case e.UploadRangeError(offset=offset):
            response.add(b"location", request.path)
            response.add(b"range", f"0-{max(offset - 1, 0)}")
        case e.RangeNotSatisfiableError(size=size):
            response.add(b"content-range", f"bytes */{size}")
        case e.MethodUnsupportedError(allowed=allowed):
            response.add(b"allow", ", ".join(allowed))
        case (
            e.TooManyRequestsError(retry_after_seconds=seconds)
            | e.QuotaExceededError(retry_after_seconds=seconds)
        ):
            response.add(b"retry-after", str(max(1, round(seconds + 0.5))))
        case e.MalformedRequestError() | e.CodingUnsupportedError():
            # Where it ends is a matter of opinion, too: nothing behind it is read (RFC 9112 11.2).
            response.add(b"connection", "close")
        case e.ReadOnlyError():
            response.add(b"retry-after", _MAINTENANCE_SECONDS)
        case e.UploadBusyError() | e.UnavailableError():
            response.add(b"retry-after", "1")
    return response


def broken_off_response() -> Response:
    """Return the answer to a body that ended early or is not what chunks look like.

    The two look alike here. Who is gone reads nothing; who sent nonsense is told so.
    """
    message = "the request's body broke off, or its chunks cannot be read"
    entry = {"code": ErrorCode.SIZE_INVALID, "message": message, "detail": {}}
    closing = {b"connection": b"close"}
    return Response.json({"errors": [entry]}, HTTPStatus.BAD_REQUEST, headers=closing)


def unexpected_response(request: Request) -> Response:
    """Return the answer to what nobody foresaw: the log has the rest, under the request's id."""
    message = f"the registry failed; its log says why under request id {request.id}"
    entry = {"code": ErrorCode.UNKNOWN, "message": message, "detail": {}}
    return Response.json({"errors": [entry]}, HTTPStatus.INTERNAL_SERVER_ERROR)
