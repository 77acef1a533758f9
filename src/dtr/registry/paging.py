"""`n`, `last` and `Link` (distribution-spec end-8b)."""

from collections.abc import Mapping
from urllib.parse import urlencode

from dtr.asgi import Request, Response
from dtr.model.errors import ParameterInvalidError

_MAX_LAST = 512


def page_size(request: Request, largest: int) -> int:
    """Return how many entries to answer: `n`, cut to the largest page.

    Raises:
        ParameterInvalidError: `n` is not a whole number of at least 0.

    """
    text = request.query("n")
    if text is None:
        return largest
    if not (text.isascii() and text.isdigit()) or len(text) > 18:  # noqa: PLR2004
        raise ParameterInvalidError("n must be a whole number of at least 0", n=text[:40])
    return min(int(text), largest)


def page_start(request: Request) -> str:
    """Return the entry after which the page begins.

    Raises:
        ParameterInvalidError: `last` is longer than any entry.

    """
    last = request.query("last") or ""
    if len(last) > _MAX_LAST:
        raise ParameterInvalidError(f"last is longer than {_MAX_LAST} characters")
    return last.partition("\0")[0]  # the same place: no name has a NUL, nor can a database hold it


def add_next_link(
    response: Response, request: Request, *, count: int, last: str, **more: str
) -> None:
    """Tell where the next page is; relative, so that it holds behind any proxy."""
    parameters: Mapping[str, str | int] = {"n": count, "last": last, **more}
    response.add(b"link", f'<{request.path}?{urlencode(parameters)}>; rel="next"')
