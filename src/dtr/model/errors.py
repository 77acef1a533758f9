"""What can go wrong, as facts. `server/errors.py` says how each is spoken over HTTP."""

from collections.abc import Sequence


class RegistryError(Exception):
    """The root of every error that this registry raises on purpose.

    `str(error)` is one sentence for people; `detail` holds facts for programs and never a secret.
    """

    def __init__(self, message: str = "", **detail: object) -> None:
        super().__init__(message or self.default_message())
        self.detail = detail

    @classmethod
    def default_message(cls) -> str:
        """Return the first line of the class's docstring."""
        return (cls.__doc__ or cls.__name__).strip().splitlines()[0].rstrip(".").lower()


class UnknownError(RegistryError):
    """Not found."""


class NameUnknownError(UnknownError):
    """Repository name not known to registry."""


class BlobUnknownError(UnknownError):
    """Blob unknown to registry."""


class ManifestUnknownError(UnknownError):
    """Manifest unknown to registry."""


class UploadUnknownError(UnknownError):
    """Blob upload unknown to registry."""


class RouteUnknownError(UnknownError):
    """Nothing is served at this address."""


class InvalidError(RegistryError):
    """Invalid request."""


class NameInvalidError(InvalidError):
    """Invalid repository name."""


class TagInvalidError(InvalidError):
    """Invalid tag name."""


class DigestInvalidError(InvalidError):
    """Provided digest did not match uploaded content."""


class SizeInvalidError(InvalidError):
    """Provided length did not match content length."""


class TooLargeError(InvalidError):
    """Larger than this registry's limit."""


class ManifestTooLargeError(TooLargeError):
    """Manifest larger than this registry's limit."""


class HeaderTooLargeError(TooLargeError):
    """Request header larger than this registry's limit."""


class AddressTooLongError(TooLargeError):
    """Request address longer than this registry's limit."""


class ManifestInvalidError(InvalidError):
    """Manifest invalid."""


class ManifestBlobUnknownError(InvalidError):
    """Manifest references a manifest or blob unknown to registry."""

    def __init__(self, missing: Sequence[str]) -> None:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")  # noqa: PLR2004
        super().__init__(
            f"manifest refers to content that this repository does not have: {shown}",
            missing=list(missing[:100]),
        )


class UploadInvalidError(InvalidError):
    """Blob upload invalid."""


class UploadRangeError(UploadInvalidError):
    """Chunk does not begin where the upload ends.

    `offset` is the true offset, which the answer carries so that the client can go on from there.
    """

    def __init__(self, message: str, *, offset: int) -> None:
        super().__init__(message, offset=offset)
        self.offset = offset


class UploadBusyError(UploadInvalidError):
    """Another request is writing to this upload."""


class RangeNotSatisfiableError(InvalidError):
    """Requested range is outside of the content."""

    def __init__(self, size: int) -> None:
        super().__init__(size=size)
        self.size = size


class MalformedRequestError(InvalidError):
    """Not a request that HTTP allows."""


class PreconditionFailedError(InvalidError):
    """The content is not what If-Match or If-None-Match asks for."""


class ParameterInvalidError(InvalidError):
    """Invalid query parameter."""


class RequestTimeoutError(InvalidError):
    """Client sent nothing for too long."""


class UnauthorizedError(RegistryError):
    """Authentication required.

    `challenge` is the ready value of `WWW-Authenticate`, or empty where none helps.
    """

    def __init__(self, message: str = "", *, challenge: str = "") -> None:
        super().__init__(message)
        self.challenge = challenge


class DeniedError(RegistryError):
    """Requested access to the resource is denied."""


class ReferencedError(DeniedError):
    """Content is referred to by a manifest and is not deleted before it."""


class QuotaExceededError(DeniedError):
    """Too many open uploads."""

    def __init__(self, message: str = "", *, retry_after_seconds: float, **detail: object) -> None:
        super().__init__(message, **detail)
        self.retry_after_seconds = retry_after_seconds


class UnsupportedError(RegistryError):
    """The operation is unsupported."""


class MethodUnsupportedError(UnsupportedError):
    """The method is not allowed here.

    `allowed` lists those that are.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(allowed=list(allowed))
        self.allowed = tuple(allowed)


class CodingUnsupportedError(UnsupportedError):
    """Transfer codings other than chunked are not decoded here."""


class TooManyRequestsError(RegistryError):
    """Too many requests."""

    def __init__(self, message: str = "", *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(RegistryError):
    """The registry cannot do this at the moment."""


class ReadOnlyError(UnavailableError):
    """The registry serves pulls only."""


class StorageGoneError(UnavailableError):
    """Stored content is not where it was, and does not come back by itself."""


class StorageFullError(UnavailableError):
    """The registry's disk is full."""


class ContentDamagedError(UnavailableError):
    """Stored content is missing or does not have its digest."""
