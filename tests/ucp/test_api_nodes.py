"""Nodes at the API: joining, being seen, being changed, being removed."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.ucp.plane import ControlPlane, report

from dtr.ucp import keys
from dtr.ucp.api import PREFIX
from dtr.ucp.authority import common_name, fingerprint, load_certificate, make_request
from dtr.ucp.client import UcpError
from dtr.ucp.controller.server import MAX_OPEN_BODY_BYTES
from dtr.ucp.model import Role, Service
from dtr.ucp.tokens import Token


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give a control plane of one manager."""
    with ControlPlane(tmp_path) as running:
        yield running


def code(response: httpx.Response) -> tuple[int, str]:
    """Give status and code of an error."""
    return response.status_code, response.json()["errors"][0]["code"]


def test_a_machine_with_the_token_becomes_a_node(plane: ControlPlane) -> None:
    """And is then known by its certificate."""
    node = plane.join("node2", "10.0.0.2")
    assert common_name(load_certificate(node.certificate)) == node.id
    assert plane.node(node.id).fingerprint == fingerprint(node.certificate)
    with plane.http(node) as http:
        assert http.post(f"{PREFIX}/agent/report", json=report("x", plane.now)).status_code == 200
    with plane.client() as client:
        shown = {found["name"]: found for found in client.nodes()}
    assert shown["node2"]["state"] == "ready"
    assert shown["node2"]["is_manager"] is False
    assert shown["first"]["state"] == "joining"
    assert shown["first"]["is_manager"] is True


def test_without_the_token_no_machine_joins(plane: ControlPlane) -> None:
    """Nor with the one from before the last rotation."""
    body = {"name": "node2", "host_address": "10.0.0.2", "csr": make_request().request_pem}
    assert code(plane.ask_to_join({**body, "secret": "a" * 32})) == (401, "TOKEN_INVALID")
    with plane.client() as client:
        new = Token.parse(client.call("POST", "/token/rotate")["token"])
        assert Token.parse(client.call("GET", "/token")["token"]) == new
    assert new.ca_fingerprint == plane.token.ca_fingerprint
    assert code(plane.ask_to_join(body)) == (401, "TOKEN_INVALID")
    assert plane.ask_to_join({**body, "secret": new.secret}).status_code == 200


def test_a_join_whose_answer_was_lost_is_said_again(plane: ControlPlane) -> None:
    """The same key, name and address make the same node; another key does not."""
    request = make_request()
    body = {"name": "node2", "host_address": "10.0.0.2", "csr": request.request_pem}
    first = plane.ask_to_join(body).json()
    again = plane.ask_to_join(body).json()
    assert again["node_id"] == first["node_id"]
    assert plane.node(first["node_id"]).fingerprint == fingerprint(again["certificate"])
    other = {**body, "csr": make_request().request_pem}
    assert code(plane.ask_to_join(other)) == (409, "NODE_EXISTS")


def test_a_node_that_has_reported_is_never_taken_over(plane: ControlPlane) -> None:
    """Not even by who has its key from a copied disk."""
    node = plane.join("node2", "10.0.0.2")
    with plane.http(node) as http:
        http.post(f"{PREFIX}/agent/report", json=report(node.id, plane.now))
    body = {
        "name": "node2",
        "host_address": "10.0.0.2",
        "csr": make_request(node.key).request_pem,
    }
    assert code(plane.ask_to_join(body)) == (409, "NODE_EXISTS")


@pytest.mark.parametrize(
    ("name", "address"),
    [("first", "10.0.0.9"), ("other", "127.0.0.1"), ("other", "::ffff:127.0.0.1")],
)
def test_two_nodes_never_have_one_name_or_address(
    plane: ControlPlane, name: str, address: str
) -> None:
    """The answer says how to get rid of a node that is gone."""
    body = {"name": name, "host_address": address, "csr": make_request().request_pem}
    answer = plane.ask_to_join(body)
    assert code(answer) == (409, "NODE_EXISTS")
    assert "ucp node rm first" in answer.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a b"},
        {"name": "10.0.0.2"},
        {"name": "*.example"},
        {"name": "../etc"},
        {"name": ""},
        {"name": 7},
        {"host_address": "node2"},
        {"host_address": "0.0.0.0"},
        {"host_address": "169.254.1.1"},
        {"csr": "none"},
        {"csr": "x" * 20_000},
        {"role": "king"},
        {"secret": None},
    ],
)
def test_what_a_machine_says_of_itself_is_checked(
    plane: ControlPlane, wrong: dict[str, object]
) -> None:
    """And answered with what is wrong."""
    body = {"name": "node2", "host_address": "10.0.0.2", "csr": make_request().request_pem}
    assert code(plane.ask_to_join({**body, **wrong})) == (400, "INVALID")
    assert len(plane.run(plane.store.list(keys.NODES))[0]) == 1


def test_a_removed_node_is_refused_at_once(plane: ControlPlane) -> None:
    """Its certificate is still valid by itself, and still worth nothing."""
    node = plane.join("node2", "10.0.0.2")
    with plane.http(node) as http:
        assert http.post(f"{PREFIX}/agent/report", json=report("", plane.now)).status_code == 200
        with plane.client() as client:
            client.call("DELETE", "/nodes/node2")
        refused = http.post(f"{PREFIX}/agent/report", json=report("", plane.now))
        assert code(refused) == (401, "NODE_UNKNOWN")
        assert code(http.get(f"{PREFIX}/agent/wanted")) == (401, "NODE_UNKNOWN")
    assert plane.entry(keys.report(node.id)) is None


def test_a_node_in_use_is_removed_only_by_force(plane: ControlPlane) -> None:
    """The answer names what it hosts."""
    node = plane.join("node2", "10.0.0.2")
    service = Service(
        name="replica", node_id=node.id, specification={"id": "0123", "password": "hidden"}
    )
    plane.put(keys.service(node.id, "replica"), service.encoded())
    with plane.client() as client:
        assert client.call("GET", "/nodes/node2")["services"] == {"replica": "0123"}
        with pytest.raises(UcpError, match="hosts a replica") as error:
            client.call("DELETE", "/nodes/node2")
        assert error.value.code == "NODE_IN_USE"
        client.call("DELETE", "/nodes/node2", params={"force": "true"})
        assert [found["name"] for found in client.nodes()] == ["first"]
    assert plane.entry(keys.service(node.id, "replica")) is None


def test_the_last_manager_is_neither_removed_nor_demoted(plane: ControlPlane) -> None:
    """Not even by force."""
    plane.join("node2", "10.0.0.2")
    with plane.client() as client:
        for method, path in (("DELETE", "/nodes/first"), ("POST", "/nodes/first/demote")):
            with pytest.raises(UcpError, match="last manager") as error:
                client.call(method, path, params={"force": "true"})
            assert error.value.status == 409


def test_a_node_is_promoted_paused_and_put_back(plane: ControlPlane) -> None:
    """What is wanted is written down; the voters' loop does the rest."""
    node = plane.join("node2", "10.0.0.2", role="worker")
    assert plane.node(node.id).role is Role.WORKER
    with plane.client() as client:
        assert client.call("POST", "/nodes/node2/promote")["role"] == "manager"
        assert client.call("POST", f"/nodes/{node.id}/demote")["role"] == "worker"
        assert client.call("POST", "/nodes/node2/pause")["is_paused"] is True
        assert client.call("POST", "/nodes/node2/resume")["is_paused"] is False
        with pytest.raises(UcpError, match="There are: first, node2") as error:
            client.call("GET", "/nodes/node9")
        assert error.value.status == 404


def test_a_node_that_stops_reporting_is_down(plane: ControlPlane) -> None:
    """By the controller's clock, whatever the node's says."""
    node = plane.join("node2", "10.0.0.2")
    with plane.http(node) as http:
        http.post(f"{PREFIX}/agent/report", json=report(node.id, plane.now + 3600))
    plane.now += 9
    with plane.client() as client:
        assert client.call("GET", "/nodes/node2")["state"] == "ready"
        plane.now += 2
        assert client.call("GET", "/nodes/node2")["state"] == "down"


@pytest.mark.parametrize(
    "content",
    [b"]" * 2**15, b"[{}," * 2**13, b'{"a":' * 2**12, b'{"secret":"a","secret":"b"}', b"NaN"],
    ids=lambda content: repr(content[:8]),
)
def test_a_body_that_costs_a_parser_much_is_refused(plane: ControlPlane, content: bytes) -> None:
    """Before any node is known: whoever reaches the port may send it."""
    with plane.http() as http:
        answer = http.post(
            f"{PREFIX}/nodes", content=content, headers={"Content-Type": "application/json"}
        )
    assert code(answer) == (400, "INVALID")


def test_a_larger_body_is_not_even_read(plane: ControlPlane) -> None:
    """Of somebody who may be anybody; what a node or an administrator sends may be larger."""
    content = b"]" * (MAX_OPEN_BODY_BYTES + 1)
    with plane.http() as http:
        answer = http.post(
            f"{PREFIX}/nodes", content=content, headers={"Content-Type": "application/json"}
        )
    assert code(answer) == (413, "TOO_LARGE")


@pytest.mark.parametrize("condition", [{"If-Match": '"1"'}, {"If-None-Match": "*"}])
def test_no_change_is_made_on_a_condition_that_cannot_hold(
    plane: ControlPlane, condition: dict[str, str]
) -> None:
    """Nothing of the API has an ETag (RFC 9110 13.1): 412."""
    node = plane.join("node2", "10.0.0.2")
    with plane.http(node) as http:
        path, body = f"{PREFIX}/agent/report", report("x", plane.now)
        refused = http.post(path, json=body, headers=condition)
        assert code(refused) == (412, "PRECONDITION_FAILED")
        assert http.post(path, json=body, headers={"If-Match": "*"}).status_code == 200
