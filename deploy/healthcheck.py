# noqa: INP001 (a script by itself)
"""Ask the registry in this container whether it is well; exit status 0 is yes.

Over TLS first and over plain HTTP if that is what is spoken here. The certificate is not checked:
the question goes over loopback, to a name that an operator's certificate need not have.
"""

import http.client
import os
import ssl
import sys

_SECONDS = 5


def main() -> int:
    """Return the exit status; what is wrong goes to standard error."""
    port = int(os.environ.get("DTR_SERVER__LISTEN", "127.0.0.1:5000").rpartition(":")[2])
    try:
        try:
            context = ssl._create_unverified_context()  # noqa: S323, SLF001 - see above
            status, body = _ask(
                http.client.HTTPSConnection("127.0.0.1", port, timeout=_SECONDS, context=context)
            )
        except ssl.SSLError:
            status, body = _ask(http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS))
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"no answer: {error}\n")
        return 1
    sys.stderr.write(body)
    return 0 if status == http.client.OK else 1


def _ask(connection: http.client.HTTPConnection) -> tuple[int, str]:
    connection.request("GET", "/health")
    response = connection.getresponse()
    return response.status, response.read().decode()


if __name__ == "__main__":
    sys.exit(main())
