"""The error table: every error has its row, every refusal its envelope."""

import inspect
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from tests.http.asgi import Answer, ask
from tests.http.client import CODES, basic
from tests.http.targets import InProcess
from tests.http.test_matrix import cases

from dtr.asgi import Request
from dtr.model import errors
from dtr.model.errors import RegistryError
from dtr.server.errors import _TABLE, ErrorCode, error_response, spoken
from dtr.testing.registry import ALICE

ARGUMENTS = {
    errors.ManifestBlobUnknownError: {"missing": ["sha256:x"]},
    errors.UploadRangeError: {"message": "gap", "offset": 5},
    errors.RangeNotSatisfiableError: {"size": 5},
    errors.MethodUnsupportedError: {"allowed": ["GET"]},
    errors.TooManyRequestsError: {"retry_after_seconds": 1.5},
    errors.QuotaExceededError: {"message": "too many", "retry_after_seconds": 1.5},
}


def every_error(root: type[RegistryError] = RegistryError) -> Iterator[type[RegistryError]]:
    """Yield the class and all below it."""
    yield root
    for kind in root.__subclasses__():
        yield from every_error(kind)


LEAVES = sorted((kind for kind in every_error() if not kind.__subclasses__()), key=str)


def made(kind: type[RegistryError]) -> RegistryError:
    """Return an error of a class."""
    return kind(**ARGUMENTS.get(kind, {}))  # type: ignore[arg-type]


def a_request() -> Request:
    """Return a request that something is wrong with."""

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/x", "query_string": b"", "headers": []}
    return Request(scope, receive, request_id="an-id")


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_every_leaf_is_in_the_table(kind: type[RegistryError]) -> None:
    """By a row of its own, or by one of an ancestor that is about more than everything."""
    row = next(parent for parent in kind.__mro__ if parent in _TABLE)
    assert row is not RegistryError
    code, status = spoken(kind)
    is_ours = status >= 500 and status != 501  # what is not implemented, the client asked for
    assert is_ours is (code in {ErrorCode.UNAVAILABLE, ErrorCode.UNKNOWN})
    assert status >= 500 or code in CODES


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_every_leaf_is_answered_in_the_envelope(kind: type[RegistryError]) -> None:
    """With a sentence, and with the header that helps the client go on."""
    response = error_response(made(kind), a_request())
    assert response.status == spoken(kind)[1]
    headers = dict(response.headers)
    assert headers[b"content-type"] == b"application/json"
    assert b'"errors"' in response.body
    assert b'"message":""' not in response.body
    needed = {
        HTTPStatus.METHOD_NOT_ALLOWED: b"allow",
        HTTPStatus.TOO_MANY_REQUESTS: b"retry-after",
        HTTPStatus.SERVICE_UNAVAILABLE: b"retry-after",
    }.get(HTTPStatus(response.status))
    if needed:
        assert needed in headers


def test_a_row_of_the_table_is_of_an_error_that_exists() -> None:
    """And the fourteen codes of the specification are all in use."""
    assert set(_TABLE) <= set(every_error())
    assert {str(code) for code, _ in _TABLE.values()} >= CODES
    assert {str(code) for code in ErrorCode} - CODES == {"UNAVAILABLE", "UNKNOWN"}


def test_every_error_says_something_without_being_told() -> None:
    """The first line of its docstring is what clients read."""
    for kind in every_error():
        assert kind.__doc__, kind
        assert inspect.cleandoc(kind.__doc__).splitlines()[0].endswith(".")
        assert str(made(kind))


async def refusals(target: InProcess) -> list[tuple[str, Answer]]:
    """Provoke every route in several ways; return what was refused."""
    found = []
    authorizations = (b"", basic(*ALICE).encode(), b"Bearer x", b"Basic x", b"x" * 20000)
    for case in cases(target.application.router.routes):
        for name, other, authorization in (
            (name, other, authorization)
            for name in ("alice/none", "UPPER", "bob/none", "x" * 300)
            for other in ("x", "sha256:" + "0" * 64, "-", "sha256:x")
            for authorization in authorizations
        ):
            path = case.template.replace("{name}", name)
            for part in ("{reference}", "{digest}", "{upload}"):
                path = path.replace(part, other)
            headers = [(b"authorization", authorization)] if authorization else []
            for method in (case.method, "OPTIONS"):
                answer = await ask(
                    target.application, method, path, query=b"n=x", headers=headers, body=[b"x"]
                )
                if answer.status >= 400:
                    found.append((f"{method} {path}", answer))
    return found


async def test_every_refusal_of_every_route_is_the_envelope(memory: InProcess) -> None:
    """One error with one of the fourteen codes; bodies of HEAD are left out by the server."""
    found = await refusals(memory)
    assert len(found) > 1000
    for what, answer in found:
        assert answer.status < 500, f"{what}: {answer.status}"
        if what.startswith("HEAD"):
            assert answer.body == b""
            continue
        [entry] = answer.json()["errors"]
        assert entry["code"] in CODES, what
        assert entry["message"], what
        assert answer.header("content-type") == "application/json", what
        assert answer.header("content-length") == str(len(answer.body)), what
        if answer.status == 401:
            assert answer.header("www-authenticate"), what
        if answer.status == 405:
            assert answer.header("allow"), what
