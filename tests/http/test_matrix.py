"""Every route, for every principal, at every visibility: one small table says what is expected.

CVE-2026-27771 left the content routes of another registry open for four years, because each
checked for itself. The routes here come from the router; the expectation does not.
"""

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from tests.http.asgi import Answer, ask
from tests.http.client import basic, image
from tests.http.targets import InProcess

from dtr.asgi import Route
from dtr.model.access import Access, Door, Level, Visibility
from dtr.model.digest import Digest
from dtr.testing.registry import ADMIN, ALICE, BOB

PRINCIPALS = (
    *("anonymous", "owner", "stranger", "reader", "writer", "manager", "admin"),
    *("owner's read-only token", "stranger's bearer", "disabled"),
)
REPOSITORIES = {"public": "alice/public", "private": "alice/private", "missing": "alice/missing"}
BLOB = Digest.of(b"config")
MANIFEST = Digest.of(b"there is no such manifest")

# What each principal may do, by visibility: nothing, pull, or everything a writer may. In a
# repository that does not exist, who might create it is told so, and nobody else anything.
NOTHING, PULL, WRITE, CREATE = "nothing", "pull", "write", "create"
MAY = {
    #                           public   private  missing
    "anonymous":               (PULL,    NOTHING, NOTHING),
    "owner":                   (WRITE,   WRITE,   CREATE),
    "stranger":                (PULL,    NOTHING, NOTHING),
    "reader":                  (PULL,    PULL,    NOTHING),
    "writer":                  (WRITE,   WRITE,   NOTHING),
    "manager":                 (WRITE,   WRITE,   NOTHING),
    "admin":                   (WRITE,   WRITE,   CREATE),
    "owner's read-only token": (PULL,    PULL,    PULL),
    "stranger's bearer":       (PULL,    NOTHING, NOTHING),
    "disabled":                (NOTHING, NOTHING, NOTHING),
}  # fmt: skip
READS = {"GET", "HEAD"}


@dataclass(frozen=True)
class Case:
    """One request."""

    method: str
    template: str
    access: Access

    def __str__(self) -> str:
        return f"{self.method} {self.template}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[InProcess, dict[str, str]]]:
    """Give a registry with all principals, and their Authorization headers."""
    settings = {"auth": {"failed_logins_before_delay": 1000}}
    target = InProcess.open(tmp_path_factory.mktemp("matrix"), settings=settings)
    headers = asyncio.run(_populate(target))
    yield target, headers
    asyncio.run(target.close())


async def _populate(target: InProcess) -> dict[str, str]:
    administration = target.administration
    for visibility in (Visibility.PUBLIC, Visibility.PRIVATE):
        administration.create_repository(REPOSITORIES[visibility], visibility)
    names = {"anonymous": "", "owner": basic(*ALICE), "stranger": basic(*BOB)}
    names["admin"] = basic(*ADMIN)
    password = "a long enough password"
    levels = {"reader": Level.READ_ONLY, "writer": Level.READ_WRITE, "manager": Level.ADMIN}
    for name, level in levels.items():
        names[name] = basic(*administration.add_user(name, password))
        for repository in (REPOSITORIES["public"], REPOSITORIES["private"]):
            administration.grant(repository, name, level)
    _, secret = administration.create_token("alice", Level.READ_ONLY)
    names["owner's read-only token"] = basic("alice", secret)
    names["disabled"] = basic(*administration.add_user("disabled", password))
    administration.grant(REPOSITORIES["private"], "disabled", Level.ADMIN)
    administration.set_active("disabled", is_active=False)
    scopes = "&".join(f"scope=repository:{name}:pull,push,delete" for name in REPOSITORIES.values())
    answer = await ask(
        target.application,
        "GET",
        "/auth/token",
        query=scopes.encode(),
        headers=[(b"authorization", names["stranger"].encode())],
    )
    names["stranger's bearer"] = "Bearer " + answer.json()["token"]
    return names


def cases(routes: Sequence[Route]) -> list[Case]:
    """Return every method of every route."""
    return [
        Case(method, route.template, route.endpoint(method).access)
        for route in routes
        for method in route.methods
    ]


async def outcome(target: InProcess, case: Case, name: str, authorization: str) -> Answer:
    """Make the request of a case in a repository."""
    path = case.template
    for part, value in {
        "{name}": name,
        "{reference}": str(MANIFEST),
        "{digest}": str(BLOB) if case.method != "DELETE" else str(MANIFEST),
        "{upload}": "00000000-0000-0000-0000-000000000000",
    }.items():
        path = path.replace(part, value)
    body = [b"{"] if case.method in {"PUT", "PATCH"} else []
    query = b"digest=sha256:x" if case.method in {"PUT", "POST"} else b""
    headers = [(b"authorization", authorization.encode())] if authorization else []
    return await ask(target.application, case.method, path, query=query, headers=headers, body=body)


def allowed(case: Case, principal: str, visibility: str) -> bool:
    """Return whether the gate should let a request pass, from the table above only."""
    may = MAY[principal][list(REPOSITORIES).index(visibility)]
    if case.method in READS and "uploads" not in case.template:
        return may != NOTHING
    return may in {WRITE, CREATE}


async def test_every_route_answers_every_principal_as_the_table_says(
    world: tuple[InProcess, dict[str, str]],
) -> None:
    """Refusals are 401 without an account, 404 or 403 with one; never a hint of more."""
    target, authorizations = world
    found = [
        case
        for case in cases(target.application.router.routes)
        if case.access.door is Door.REPOSITORY
    ]
    assert len(found) >= 15
    wrong = []
    for case, principal, visibility in itertools.product(found, PRINCIPALS, REPOSITORIES):
        answer = await outcome(target, case, REPOSITORIES[visibility], authorizations[principal])
        code = answer.json()["errors"][0]["code"] if answer.status >= 400 and answer.body else ""
        if allowed(case, principal, visibility):
            # Past the gate a request may fail for what it says, but never for who says it.
            is_right = answer.status in {200, 202, 204, 400, 404}
            is_right &= visibility == "missing" or code not in {"NAME_UNKNOWN", "DENIED"}
        elif principal in {"anonymous", "disabled"}:
            is_right = answer.status == 401 and answer.header("www-authenticate") != ""
        elif principal == "stranger's bearer":
            is_right = answer.status == 401
        elif case.method in READS and "uploads" not in case.template:
            is_right = answer.status == 404 and code in {"NAME_UNKNOWN", ""}
        else:
            is_right = (answer.status, code) in {(403, "DENIED"), (403, "")}
        if not is_right:
            wrong.append(f"{case} as {principal} in {visibility}: {answer.status} {answer.body!r}")
    assert wrong == []


def _shape(answer: Answer, name: str) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """Return an answer without the name that was asked for and the request's own id."""
    generic = [
        (key, value.replace(name.encode(), b"NAME"))
        for key, value in answer.headers
        if key not in {b"x-request-id", b"content-length"}
    ]
    return answer.status, answer.body.replace(name.encode(), b"NAME"), generic


@pytest.mark.parametrize(
    "principal", ["anonymous", "stranger", "stranger's bearer", "disabled", "outsider"]
)
async def test_private_and_missing_look_the_same_to_who_may_not_see(
    world: tuple[InProcess, dict[str, str]], principal: str
) -> None:
    """Status, body and headers: nobody learns which repositories exist."""
    target, authorizations = world
    authorization = authorizations.get(principal, "")
    if principal == "outsider":
        with_token = target.administration.create_token("bob", Level.READ_ONLY)
        authorization = basic("bob", with_token[1])
    for case in cases(target.application.router.routes):
        if case.access.door is not Door.REPOSITORY:
            continue
        shapes = [
            _shape(
                await outcome(target, case, REPOSITORIES[kind], authorization), REPOSITORIES[kind]
            )
            for kind in ("private", "missing")
        ]
        assert shapes[0] == shapes[1], str(case)


DOORS = {
    Door.OPEN: dict.fromkeys(PRINCIPALS, True),
    Door.ACCOUNT: {name: name not in {"anonymous", "disabled"} for name in PRINCIPALS},
    Door.CATALOG: {
        name: name not in {"anonymous", "disabled", "stranger's bearer"} for name in PRINCIPALS
    },
    Door.OPERATOR: {name: name == "admin" for name in PRINCIPALS},
    Door.ADMINISTRATOR: {name: name == "admin" for name in PRINCIPALS},
}


async def test_routes_without_a_repository_open_their_door_as_the_table_says(
    world: tuple[InProcess, dict[str, str]],
) -> None:
    """Open, for accounts, for lists, for operators."""
    target, authorizations = world
    for case in cases(target.application.router.routes):
        if case.access.door is Door.REPOSITORY or case.method == "POST":
            continue
        for principal in PRINCIPALS:
            if case.template == "/auth/token" and principal in {"disabled", "stranger's bearer"}:
                continue  # it is where one logs in, and has a test of its own
            answer = await outcome(target, case, "", authorizations[principal])
            is_admitted = answer.status not in {401, 403, 429}
            assert is_admitted is DOORS[case.access.door][principal], f"{case} as {principal}"


def test_every_endpoint_declares_an_access(world: tuple[InProcess, dict[str, str]]) -> None:
    """An endpoint cannot be made without one; those on repositories say what they do."""
    target, _ = world
    for route in target.application.router.routes:
        for method in route.methods:
            access = route.endpoint(method).access
            assert isinstance(access, Access)
            names_a_repository = "{name}" in route.template
            assert (access.door is Door.REPOSITORY) is names_a_repository
            assert (access.action is not None) is names_a_repository


def test_what_is_open_is_a_short_list(world: tuple[InProcess, dict[str, str]]) -> None:
    """A new open route must be added here, by somebody who meant it."""
    target, _ = world
    found = {
        case.template
        for case in cases(target.application.router.routes)
        if case.access.door is Door.OPEN
    }
    assert found == {
        "/",
        "/_ping",
        "/auth/token",
        "/ca",
        "/health",
        "/load_balancer_status",
    }


async def test_the_owner_sees_what_was_hidden(world: tuple[InProcess, dict[str, str]]) -> None:
    """The matrix would be happy with a registry that refuses everything; this one serves."""
    target, authorizations = world
    headers = [(b"authorization", authorizations["owner"].encode())]
    path = f"/v2/{REPOSITORIES['private']}/manifests/latest"
    payload = json.dumps(image(b"config")).encode()
    answer = await ask(target.application, "PUT", path, headers=headers, body=[payload])
    assert answer.status == 201
    answer = await ask(target.application, "GET", path, headers=headers)
    assert answer.body == payload
