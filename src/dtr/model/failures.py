"""Why the system, the network or TLS refused something, in our own words.

What exceptions of libraries say names objects, numbers and functions, in as many styles as there
are libraries. It belongs into logs. People get what these functions return.
"""

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Final

_MOST_LINKS: Final = 8
_BAD_FILE: Final = "a file is damaged, or key and certificate do not belong together"
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
"""X509_V_ERR_CERT_NOT_YET_VALID and ..._HAS_EXPIRED of OpenSSL."""
_WORDS: Final = {
    errno.ECONNREFUSED: "nothing listens there",
    errno.ECONNRESET: "it broke off the connection",
    errno.EPIPE: "it broke off the connection",
    errno.ECONNABORTED: "it broke off the connection",
    errno.ETIMEDOUT: "no answer in time",
    errno.EHOSTUNREACH: "there is no way to it in the network",
    errno.ENETUNREACH: "there is no way to it in the network",
    errno.EADDRINUSE: "something else uses it",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.ENOENT: "it is not there",
    errno.ENOTDIR: "it is not there",
    errno.EISDIR: "it is a directory",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk does not work",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
    errno.ENOMEM: "there is no memory left",
    errno.ENOTEMPTY: "the directory is not empty",
    errno.ESTALE: "the directory is gone from the file server",
}


def reason_of(error: BaseException, otherwise: str = "it does not work") -> str:
    """Return why something failed, as the end of a sentence; `otherwise` where nobody knows.

    >>> reason_of(ConnectionRefusedError(111, "Connection refused"))
    'nothing listens there'
    >>> reason_of(OSError(28, "No space left on device", "/srv/x"))
    '/srv/x: the disk is full'
    >>> reason_of(KeyError("x"), "it cannot be reached")
    'it cannot be reached'
    """
    for each in _chain(error):
        reason = _own_reason(each)
        if reason:
            name = getattr(each, "filename", None)
            return f"{name}: {reason}" if isinstance(name, str) and name else reason
    return otherwise


def _own_reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        # Whoever raises one in our own code sets no code.
        is_expired = getattr(error, "verify_code", None) in {_EXPIRED, _NOT_YET_VALID}
        return f"its certificate is not {'valid now' if is_expired else 'trusted'}"
    if isinstance(error, ssl.SSLError):
        is_about_file = getattr(error, "library", "") == "X509" or "PEM lib" in str(error)
        return _BAD_FILE if is_about_file else "no TLS connection came about"
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno is not None:
        name = errno.errorcode.get(error.errno, str(error.errno))
        return _WORDS.get(error.errno, f"the system refuses it ({name})")
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it was made of, the innermost known first."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found and len(found) < _MOST_LINKS:
        found.append(current)
        inner = getattr(current, "os_error", None) or getattr(current, "certificate_error", None)
        current = inner if isinstance(inner, BaseException) else current.__cause__
    return reversed(found)
