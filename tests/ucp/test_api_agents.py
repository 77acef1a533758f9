"""What agents ask for and tell."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ucp.plane import ControlPlane, Joined, report

from dtr.ucp import keys
from dtr.ucp.api import PREFIX
from dtr.ucp.authority import fingerprint, is_for_clients, load_certificate, make_request
from dtr.ucp.model import MAX_REPORT_BYTES, NodeReport, Service, Wanted

WANTED = f"{PREFIX}/agent/wanted"
CERTIFICATE = f"{PREFIX}/agent/certificate"
REPORT = f"{PREFIX}/agent/report"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give a control plane of one manager."""
    with ControlPlane(tmp_path) as running:
        yield running


@pytest.fixture
def node(plane: ControlPlane) -> Joined:
    """Give a node."""
    return plane.join("node2", "10.0.0.2")


def test_an_agent_gets_what_its_own_node_is_to_run(plane: ControlPlane, node: Joined) -> None:
    """A worker never gets what only controllers have."""
    service = Service(name="replica", node_id=node.id, specification={"id": "0123"})
    plane.put(keys.service(node.id, "replica"), service.encoded())
    with plane.http(node) as http:
        answer = http.get(WANTED)
    wanted = Wanted.model_validate(answer.json())
    assert wanted.node.name == "node2"
    assert wanted.services == {"replica": {"id": "0123"}}
    assert wanted.controllers == (f"127.0.0.1:{plane.ports[0]}",)
    assert wanted.controller is None
    assert wanted.etcd is None
    assert "PRIVATE KEY" not in answer.text


def test_an_agent_is_told_what_time_it_is(plane: ControlPlane, node: Joined) -> None:
    """By most machines: so its own can be corrected; nobody else asks a controller for that."""
    plane.now = 1_800_000_000.0
    with plane.http(node) as http:
        assert http.get(f"{PREFIX}/agent/time").json() == {"now": 1_800_000_000.0}
    with plane.http() as http:
        assert http.get(f"{PREFIX}/agent/time").status_code == 401


@pytest.mark.measuring
def test_an_agent_that_waits_hears_of_a_change_at_once(plane: ControlPlane, node: Joined) -> None:
    """It does not ask again and again."""
    with plane.http(node) as http:
        revision = http.get(WANTED).json()["revision"]
        service = Service(name="balancer", node_id=node.id, specification={})
        write = threading.Timer(
            0.5, plane.put, (keys.service(node.id, "balancer"), service.encoded())
        )
        began = time.monotonic()
        write.start()
        answer = http.get(WANTED, params={"after": revision}).json()
        write.join()
    assert answer["services"] == {"balancer": {}}
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "9" * 30, "١"])
def test_what_is_no_revision_is_refused(plane: ControlPlane, node: Joined, after: str) -> None:
    """With a sentence."""
    with plane.http(node) as http:
        assert http.get(WANTED, params={"after": after}).status_code == 400


def test_a_report_is_kept_as_its_own_nodes(plane: ControlPlane, node: Joined) -> None:
    """Whatever it says it is, and with the controller's time."""
    with plane.http(node) as http:
        assert http.post(REPORT, json=report(plane.first.id, plane.now - 5)).status_code == 200
    entry = plane.entry(keys.report(node.id))
    assert entry is not None
    kept = entry.document(NodeReport)
    assert (kept.node_id, kept.received_at, kept.at) == (node.id, plane.now, plane.now - 5)
    assert plane.entry(keys.report(plane.first.id)) is None


def test_a_report_without_end_is_refused(plane: ControlPlane, node: Joined) -> None:
    """The store is small."""
    with plane.http(node) as http:
        large = report(node.id, plane.now, services={"x": "y" * 300_000})
        assert http.post(REPORT, json=large).status_code == 413
        assert http.post(REPORT, json={}).status_code == 400
    assert plane.entry(keys.report(node.id)) is None


@pytest.fixture
def still(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give a control plane for which no time passes."""
    with ControlPlane(tmp_path, monotonic=lambda: 0.0) as running:
        yield running


def test_a_node_that_writes_without_end_fills_nothing(still: ControlPlane) -> None:
    """In bytes and in number: honest agents have room, the rest is refused before it is written."""
    node = still.join("node2", "10.0.0.2")
    large = report(node.id, still.now, services={"x": "y" * (MAX_REPORT_BYTES - 1024)})
    before = still.revision()
    with still.http(node) as http:
        taken = [http.post(REPORT, json=large) for _ in range(10)]
        small = [http.post(REPORT, json=report(node.id, still.now)) for _ in range(10)]
        requests = [{"csr": make_request().request_pem} for _ in range(12)]
        certificates = [http.post(CERTIFICATE, json=each).status_code for each in requests]
    assert [each.status_code for each in taken] == [200] * 2 + [429] * 8
    assert "Wait" in taken[-1].json()["errors"][0]["message"]
    assert [each.status_code for each in small] == [429] * 10
    assert certificates == [200] * 10 + [429] * 2
    assert still.revision() - before == 12


def test_machines_that_join_without_end_fill_nothing(still: ControlPlane) -> None:
    """Also one machine again and again, with a good token."""
    request = make_request().request_pem
    body = {"name": "node2", "host_address": "10.0.0.2", "csr": request}
    statuses = [still.ask_to_join(body).status_code for _ in range(103)]
    assert statuses == [200] * 100 + [429] * 3


def test_what_one_node_may_write_is_no_other_nodes(still: ControlPlane) -> None:
    """A node that fills its own share leaves the others theirs."""
    node, other = still.join("node2", "10.0.0.2"), still.join("node3", "10.0.0.3")
    with still.http(node) as http:
        while http.post(REPORT, json=report(node.id, still.now)).status_code == 200:
            pass
    with still.http(other) as http:
        assert http.post(REPORT, json=report(other.id, still.now)).status_code == 200


def test_a_node_renews_its_certificate_and_the_old_one_then_ends(
    plane: ControlPlane, node: Joined
) -> None:
    """Both are accepted until the new one was shown."""
    old = Joined(node.id, node.key, node.certificate, node.directory)
    request = make_request()
    with plane.http(old) as as_old:
        answer = as_old.post(CERTIFICATE, json={"csr": request.request_pem}).json()
        assert as_old.post(REPORT, json=report("", plane.now)).status_code == 200
        new = Joined(node.id, request.key_pem, answer["certificate"], node.directory)
        with plane.http(new) as as_new:
            assert as_new.post(REPORT, json=report("", plane.now)).status_code == 200
        refused = as_old.post(REPORT, json=report("", plane.now))
    assert refused.status_code == 401
    assert "CERTIFICATE_REPLACED" in refused.text
    kept = plane.node(node.id)
    assert kept.fingerprint == fingerprint(new.certificate)
    assert kept.previous_fingerprint == ""


def test_a_renewal_whose_answer_was_lost_is_repeated(plane: ControlPlane, node: Joined) -> None:
    """The node still has its first certificate only, and that goes on being accepted."""
    with plane.http(node) as http:
        for _ in range(3):
            request = make_request()
            answer = http.post(CERTIFICATE, json={"csr": request.request_pem})
            assert answer.status_code == 200
        assert http.post(REPORT, json=report("", plane.now)).status_code == 200
    assert plane.node(node.id).previous_fingerprint == fingerprint(node.certificate)
    assert plane.node(node.id).fingerprint == fingerprint(answer.json()["certificate"])


def test_a_node_certificate_has_the_nodes_names_whatever_is_asked(
    plane: ControlPlane, node: Joined
) -> None:
    """And those that every node has."""
    with plane.http(node) as http:
        body = {"csr": make_request().request_pem, "names": ["bank.example"]}
        pem = http.post(CERTIFICATE, json=body).json()["certificate"]
    text = str(load_certificate(pem).extensions)
    assert "bank.example" not in text
    assert all(name in text for name in ("node2", "10.0.0.2", "127.0.0.1", "ucp.example"))


def test_a_web_certificate_has_allowed_names_only_and_replaces_nothing(
    plane: ControlPlane, node: Joined
) -> None:
    """It proves a server, not a node."""
    before = plane.node(node.id)
    plane.put(f"{keys.WEB_NAMES}/dtr", b'["registry.example", "not a name", 7]')
    with plane.http(node) as http:
        body = {"csr": make_request().request_pem, "purpose": "web"}
        allowed = http.post(
            CERTIFICATE, json={**body, "names": ["ucp.example", "NODE2", "registry.example"]}
        )
        refused = http.post(CERTIFICATE, json={**body, "names": ["first", "bank.example"]})
    assert not is_for_clients(load_certificate(allowed.json()["certificate"]))
    assert refused.status_code == 403
    assert "first, bank.example" in refused.text
    assert plane.node(node.id) == before
