"""Who may call what, and how much of it."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.ucp.plane import ADMINISTRATOR, PASSWORD, ControlPlane, Joined, OneMember, report

from dtr.testing.store import MemoryStore
from dtr.ucp import keys
from dtr.ucp.api import PREFIX, Access, ApiRequest, ApiRoute
from dtr.ucp.authority import Purpose, make_request
from dtr.ucp.client import UcpClient, UcpError
from dtr.ucp.controller.access import Caller, Gate
from dtr.ucp.controller.routes import ucp_routes
from dtr.ucp.controller.server import MAX_BODY_BYTES, MAX_OPEN_BODY_BYTES
from dtr.ucp.controller.sessions import SESSION_SECONDS, Administrators
from dtr.ucp.keyring import KINDS, OF_MANAGERS, Keyring, issue
from dtr.ucp.model import Administrator, KeyPair
from dtr.ucp.store import Delete

WHO = {"username": ADMINISTRATOR, "password": PASSWORD}
OPEN = {("POST", "/auth/login"), ("POST", "/nodes")}


async def broken(_: ApiRequest) -> None:
    """Fail as a mistake in a handler does."""
    raise RuntimeError("the password is hunter2")


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give a control plane with a route that is broken."""
    route = ApiRoute("GET", "/broken", Access.ADMINISTRATOR, broken)
    with ControlPlane(tmp_path, extra_routes=[route]) as running:
        yield running


@pytest.fixture
def http(plane: ControlPlane) -> Iterator[httpx.Client]:
    """Give somebody whom nobody knows."""
    with plane.http() as client:
        yield client


def basic(name: str, password: str) -> dict[str, str]:
    """Give the header of basic authentication."""
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def all_routes(plane: ControlPlane) -> list[ApiRoute]:
    """Give the table."""
    return ucp_routes(
        authority=plane.authority,
        administrators=Administrators(MemoryStore()),
        members=OneMember(),
        kinds=(),
        port=1,
    )


def test_nobody_gets_past_any_route_that_is_not_open(
    plane: ControlPlane, http: httpx.Client
) -> None:
    """Not with nothing, not with a made-up session, not with the wrong password."""
    refused = 0
    for route in all_routes(plane):
        if (route.method, route.path) in OPEN:
            assert route.access is Access.OPEN
            continue
        assert route.access is not Access.OPEN
        path = PREFIX + re.sub(r"\{\w+\}", "first", route.path)
        for headers in ({}, {"Authorization": "Bearer made-up"}, {"Authorization": "Digest x"}):
            answer = http.request(route.method, path, headers=headers, json={})
            assert answer.status_code == 401, (route, headers)
            refused += 1
    assert refused > 50


def test_an_administrator_is_no_node_and_a_node_no_administrator(plane: ControlPlane) -> None:
    """Each opens its own routes only."""
    node = plane.join("node2", "10.0.0.2")
    with plane.http(node) as as_node, plane.client() as client:
        for route in all_routes(plane):
            path = re.sub(r"\{\w+\}", "first", route.path)
            if route.access is Access.ADMINISTRATOR:
                answer = as_node.request(route.method, PREFIX + path, json={})
                assert answer.status_code == 401, route
            if route.access is Access.NODE:
                with pytest.raises(UcpError) as error:
                    client.call(route.method, path, {})
                assert error.value.status == 401, route


def test_login_is_where_the_original_had_it_and_basic_works(http: httpx.Client) -> None:
    """A session's token goes into the bearer header."""
    for path in ("/auth/login", f"{PREFIX}/auth/login"):
        token = http.post(path, json=WHO).json()["auth_token"]
        bearer = {"Authorization": f"Bearer {token}"}
        assert http.get(f"{PREFIX}/nodes", headers=bearer).status_code == 200
    assert http.get(f"{PREFIX}/nodes", headers=basic(ADMINISTRATOR, PASSWORD)).status_code == 200


def test_a_session_ends_at_logout(plane: ControlPlane, http: httpx.Client) -> None:
    """And its token is nowhere in the store to be read."""
    token = http.post("/auth/login", json=WHO).json()["auth_token"]
    kept, _ = plane.run(plane.store.list(""))
    assert not [entry for entry in kept if token in entry.key or token.encode() in entry.value]
    bearer = {"Authorization": f"Bearer {token}"}
    assert http.post(f"{PREFIX}/auth/logout", headers=bearer).status_code == 200
    assert http.get(f"{PREFIX}/nodes", headers=bearer).status_code == 401
    assert plane.run(plane.store.list(keys.SESSIONS))[0] == []
    assert plane.store._leases == {}


def test_a_session_ends_after_an_hour(plane: ControlPlane, http: httpx.Client) -> None:
    """At every controller."""
    token = http.post("/auth/login", json=WHO).json()["auth_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    plane.now += SESSION_SECONDS - 1
    assert http.get(f"{PREFIX}/nodes", headers=bearer).status_code == 200
    plane.now += 2
    assert http.get(f"{PREFIX}/nodes", headers=bearer).status_code == 401


def test_a_new_password_ends_all_sessions(plane: ControlPlane, http: httpx.Client) -> None:
    """And the old one opens nothing."""
    token = http.post("/auth/login", json=WHO).json()["auth_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    plane.now += 1
    path = f"{PREFIX}/administrators/{ADMINISTRATOR}/password"
    short = http.post(path, headers=bearer, json={"password": "short"})
    assert short.status_code == 400
    assert http.post(path, headers=bearer, json={"password": "another one"}).status_code == 200
    assert http.get(f"{PREFIX}/nodes", headers=bearer).status_code == 401
    assert http.post("/auth/login", json=WHO).status_code == 401
    assert http.post("/auth/login", json={**WHO, "password": "another one"}).status_code == 200


def test_guessing_is_slowed_down_for_the_guesser_only(
    plane: ControlPlane, http: httpx.Client
) -> None:
    """Until the time is over; one wrong password that is repeated counts once."""
    guesses = [f"wrong {min(number, 4)}" for number in range(9)]
    answers = {
        http.post("/auth/login", json={**WHO, "password": guess}).status_code for guess in guesses
    }
    assert answers == {401}
    refused = http.post("/auth/login", json=WHO)
    assert refused.status_code == 429
    assert "Wait" in refused.text
    assert int(refused.headers["Retry-After"]) >= 1
    assert http.get(f"{PREFIX}/nodes", headers=basic(ADMINISTRATOR, PASSWORD)).status_code == 429
    assert http.post("/auth/login", json={**WHO, "username": "other"}).status_code == 401
    plane.now += 2
    assert http.post("/auth/login", json=WHO).status_code == 200


@pytest.mark.parametrize("name", ["nobody", "", "a/b", "x" * 200, "\0"])
def test_a_name_that_there_is_not_is_answered_as_a_wrong_password(
    http: httpx.Client, name: str
) -> None:
    """So that names cannot be found out."""
    there = http.post("/auth/login", json={**WHO, "password": "wrong"})
    not_there = http.post("/auth/login", json={"username": name, "password": PASSWORD})
    if len(name) > 128:
        assert not_there.status_code == 400
        return
    assert (not_there.status_code, not_there.text) == (there.status_code, there.text)


def test_a_web_certificate_opens_nothing(plane: ControlPlane, tmp_path: Path) -> None:
    """TLS itself refuses it as a client's."""
    node = plane.join("node2", "10.0.0.2")
    request = make_request()
    with plane.http(node) as http:
        answer = http.post(
            f"{PREFIX}/agent/certificate",
            json={"csr": request.request_pem, "purpose": "web", "names": ["ucp.example"]},
        ).json()
    node.certificate, node.key = answer["certificate"], request.key_pem
    with plane.http(node) as http, pytest.raises(httpx.TransportError):
        http.post(f"{PREFIX}/agent/report", json=report(node.id, plane.now))


def test_no_engines_key_is_taken_for_a_nodes(plane: ControlPlane) -> None:
    """Whoever breaks out of an engine of a manager would be sent the authority's key."""
    entry = plane.entry(keys.KEYRING)
    assert entry is not None
    held = issue(entry.document(Keyring), plane.first, KINDS, plane.now)
    own = plane.directory
    first = Joined(
        plane.first.id, own.key.read_text(), own.certificate.read_text(), plane.place / "engines"
    )
    first.directory.mkdir()
    with plane.http(first) as http:
        told = http.get(f"{PREFIX}/agent/wanted").json()
    assert told["controller"]["ca_key"]
    assert set(told["keys"]["pairs"]) == OF_MANAGERS
    for pair in (
        *held.pairs.values(),
        *(KeyPair(**each) for each in told["keys"]["pairs"].values()),
    ):
        engine = Joined(first.id, pair.key, pair.certificate, first.directory)
        with plane.http(engine) as http, pytest.raises(httpx.TransportError):
            http.get(f"{PREFIX}/agent/wanted")


@pytest.mark.parametrize("purpose", ["engine", "client", "etcd-peer"])
def test_the_nodes_authority_signs_nothing_for_engines(plane: ControlPlane, purpose: str) -> None:
    """Their keys come with what a node is to run, and from nowhere else."""
    node = plane.join("node2", "10.0.0.2")
    body = {"csr": make_request().request_pem, "purpose": purpose}
    with plane.http(node) as http:
        assert http.post(f"{PREFIX}/agent/certificate", json=body).status_code == 400


def test_a_worker_is_sent_no_key_of_an_engine(plane: ControlPlane) -> None:
    """It runs none."""
    node = plane.join("node2", "10.0.0.2")
    with plane.http(node) as http:
        told = http.get(f"{PREFIX}/agent/wanted").json()
    assert told["controller"] is None
    assert told["keys"]["pairs"] == {}
    assert "PRIVATE" not in str(told)


def test_the_certificate_of_another_authority_opens_nothing(
    plane: ControlPlane, tmp_path: Path
) -> None:
    """Whatever name it has."""
    node = plane.join("node2", "10.0.0.2")
    (tmp_path / "elsewhere").mkdir()
    with ControlPlane(tmp_path / "elsewhere") as other:
        request = make_request()
        foreign = other.authority.sign(
            request.request_pem,
            common_name=node.id,
            names=["node2"],
            now=datetime.fromtimestamp(plane.now, UTC),
            purpose=Purpose.NODE,
        )
    node.certificate, node.key = foreign, request.key_pem
    with plane.http(node) as http, pytest.raises(httpx.TransportError):
        http.post(f"{PREFIX}/agent/report", json=report(node.id, plane.now))


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 20_000, 400),
        (b"[]", 400),
        (b'"hello"', 400),
        (b"", 400),
        (b" " * (MAX_OPEN_BODY_BYTES + 1), 413),
    ],
)
def test_a_body_that_makes_no_sense_is_refused_in_one_shape(
    http: httpx.Client, content: bytes, status: int
) -> None:
    """With a code and a message, and never a traceback."""
    answer = http.post("/auth/login", content=content)
    assert answer.status_code == status
    (error,) = answer.json()["errors"]
    assert set(error) == {"code", "message"}


@pytest.mark.parametrize(
    ("content", "status"), [(b"[" * 100_000, 400), (b" " * (MAX_BODY_BYTES + 1), 413)]
)
def test_only_who_is_known_may_send_much(http: httpx.Client, content: bytes, status: int) -> None:
    """Of anybody, whom there may be many of, only as much is held as a login or a join needs."""
    route, known = f"{PREFIX}/token/rotate", basic(ADMINISTRATOR, PASSWORD)
    assert http.post(route, content=content, headers=known).status_code == status
    assert http.post(f"{PREFIX}/nodes", content=content).status_code == 413


def test_what_was_sent_is_not_repeated_in_errors(http: httpx.Client) -> None:
    """It may have been a secret in the wrong field."""
    answer = http.post("/auth/login", json={"username": ["hunter2"], "password": "x"})
    assert answer.status_code == 400
    assert "hunter2" not in answer.text
    assert "username" in answer.text


def test_a_mistake_of_ours_tells_nothing(plane: ControlPlane) -> None:
    """The log has it."""
    with plane.client() as client, pytest.raises(UcpError, match="see the log") as error:
        client.call("GET", "/broken")
    assert error.value.status == 500
    assert "hunter2" not in str(error.value)


def test_unknown_paths_and_methods_have_the_same_shape(http: httpx.Client) -> None:
    """Also outside of the API."""
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", f"{PREFIX}/nothing", 404),
        ("DELETE", f"{PREFIX}/auth/login", 405),
        ("GET", f"{PREFIX}/../../etc/passwd", 404),
    ):
        answer = http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["errors"][0]["message"]


def test_anybody_may_ask_for_the_authority_and_how_it_is(
    plane: ControlPlane, http: httpx.Client
) -> None:
    """As the original had them."""
    assert http.get("/ca").text == plane.ca
    assert http.get("/_ping").json() == {"Error": "", "Healthy": True}
    plane.store.is_available = False
    answer = http.get("/_ping")
    assert answer.status_code == 503
    assert answer.json()["Healthy"] is False
    assert http.get(f"{PREFIX}/nodes", headers=basic("a", "b")).status_code == 503


def test_a_session_is_known_to_every_controller(plane: ControlPlane) -> None:
    """It is in the store."""
    second = plane.serve()
    with plane.client() as client:
        plane.stop(plane.ports[0])
        with UcpClient(f"127.0.0.1:{second}", ca_pem=plane.ca) as other:
            other._token = client._token
            assert other.nodes()


def test_a_password_is_not_kept_as_it_is(plane: ControlPlane) -> None:
    """Only its hash is, which controllers alone can read."""
    entry = plane.entry(keys.administrator(ADMINISTRATOR))
    assert entry is not None
    assert PASSWORD.encode() not in entry.value
    assert b"argon2id" in entry.value


@pytest.mark.parametrize("way", ["session", "password", "administrator", "node"])
def test_who_loses_the_right_while_the_body_arrives_changes_nothing(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Who was let in with the head is looked at again once the body is here."""
    node = plane.join("node2", "10.0.0.2")
    path, headers = f"{PREFIX}/administrators/{ADMINISTRATOR}/password", basic(*WHO.values())
    whole = json.dumps({"password": "of the attacker"}).encode()
    key = keys.node(node.id) if way == "node" else keys.administrator(ADMINISTRATOR)
    admitted, admit = threading.Event(), Gate.admit
    kept = []

    async def noticed(*arguments: Any, **named: Any) -> Caller:
        caller = await admit(*arguments, **named)
        admitted.set()
        return caller

    def meddle() -> None:
        if way == "session":
            plane.run(plane.store.commit([Delete(keys.SESSIONS, is_prefix=True)]))
        elif way == "password":
            entry = plane.entry(key)
            assert entry is not None
            later = entry.document(Administrator).changed(changed_at=plane.now + 1)
            plane.put(key, later.encoded())
        else:
            plane.run(plane.store.commit([Delete(key)]))
        kept.append(plane.entry(key))

    def body() -> Iterator[bytes]:
        yield whole[:5]
        assert admitted.wait(30)
        meddle()
        yield whole[5:]

    with plane.http(node if way == "node" else None) as http:
        if way == "session":
            token = http.post("/auth/login", json=WHO).json()["auth_token"]
            headers = {"Authorization": f"Bearer {token}"}
        if way == "node":
            path, headers = f"{PREFIX}/agent/report", {}
            whole = json.dumps(report(node.id, plane.now)).encode()
        monkeypatch.setattr(Gate, "admit", noticed)
        answer = http.post(path, headers=headers, content=body())
    assert answer.status_code == 401, answer.text
    assert [plane.entry(key)] == kept
