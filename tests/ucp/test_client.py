"""How commands speak to controllers: trust, errors as sentences, and controllers that die."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.support.processes import free_port
from tests.ucp.plane import ADMINISTRATOR, PASSWORD, ControlPlane

from dtr.ucp import client as client_module
from dtr.ucp import keys
from dtr.ucp.client import UcpClient, UcpError, UnreachableError, checked_address
from dtr.ucp.controller.sessions import SESSION_SECONDS
from dtr.ucp.model import Manager, ManagerPhase, Operation, OperationState


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give a control plane of one manager."""
    with ControlPlane(tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ucp.example", "ucp.example:8443"),
        (" https://10.0.0.1/ ", "10.0.0.1:8443"),
        ("https://ucp.example:443", "ucp.example:443"),
        ("[fd00::1]:9", "[fd00::1]:9"),
        ("fd00::1", "[fd00::1]:8443"),
    ],
)
def test_an_address_needs_neither_scheme_nor_port(given: str, meant: str) -> None:
    """As the original took it."""
    assert checked_address(given) == meant


@pytest.mark.parametrize(
    "given", ["", "http://a", "a:b", "a:99999", "a/b", "u@a", "a b", "ftp://a", "https://", "a?b"]
)
def test_what_is_no_address_is_refused(given: str) -> None:
    """Plain HTTP, too: a password would be sent."""
    with pytest.raises(UcpError, match="HOST:PORT"):
        checked_address(given)


def test_a_controller_that_cannot_be_trusted_is_told_nothing(
    plane: ControlPlane, tmp_path: Path
) -> None:
    """And the sentence names both ways out."""
    (tmp_path / "other").mkdir()
    with ControlPlane(tmp_path / "other") as other:
        for ca in (None, other.ca):
            with (
                UcpClient(plane.address, ca_pem=ca) as client,
                pytest.raises(UnreachableError, match="not trusted") as error,
            ):
                client.login(ADMINISTRATOR, PASSWORD)
            assert "--ucp-ca" in error.value.remedy
            assert "--ucp-insecure-tls" in error.value.remedy


def test_a_certificate_for_another_name_is_refused(plane: ControlPlane) -> None:
    """It may be another node's."""
    address = plane.address.replace("127.0.0.1", "127.0.0.3")
    with UcpClient(address, ca_pem=plane.ca) as client, pytest.raises(UcpError) as error:
        client.nodes()
    assert "No controller can be reached" in error.value.what or "that name" in error.value.what


def test_insecure_tls_trusts_anybody(plane: ControlPlane) -> None:
    """As the option says."""
    with UcpClient(plane.address, insecure=True) as client:
        client.login(ADMINISTRATOR, PASSWORD)
        assert [node["name"] for node in client.nodes()] == ["first"]


def test_what_is_no_authority_is_refused(plane: ControlPlane) -> None:
    """Before anything is asked."""
    with pytest.raises(UcpError, match="--ucp-ca"):
        UcpClient(plane.address, ca_pem="hello")


def test_nobody_there_is_one_sentence_and_what_to_do() -> None:
    """Without a traceback's words."""
    with UcpClient(f"127.0.0.1:{free_port()}") as client, pytest.raises(UnreachableError) as error:
        client.nodes()
    assert "No controller can be reached at 127.0.0.1" in error.value.what
    assert "address" in error.value.remedy


def test_a_wrong_password_is_said_plainly(plane: ControlPlane) -> None:
    """Without saying which of the two is wrong."""
    with UcpClient(plane.address, ca_pem=plane.ca) as client:
        with pytest.raises(UcpError, match="username or the password is wrong") as error:
            client.login(ADMINISTRATOR, "wrong")
        assert error.value.status == 401
        with pytest.raises(UcpError, match="Log in first"):
            client.nodes()


def test_a_session_that_ended_is_begun_again(plane: ControlPlane) -> None:
    """An operation may be followed for longer than an hour."""
    with plane.client() as client:
        assert client.nodes()
        plane.now += SESSION_SECONDS + 1
        assert client.nodes()


def two_managers(plane: ControlPlane) -> int:
    """Add a manager with a controller at 127.0.0.1, and give its port."""
    node = plane.join("second", "127.0.0.2")
    port = plane.serve()
    record = plane.node(node.id).changed(host_address="127.0.0.1", controller_port=port)
    plane.put(keys.node(node.id), record.encoded())
    manager = Manager(node_id=node.id, peer_url="https://x:1", phase=ManagerPhase.VOTER)
    plane.put(keys.manager(node.id), manager.encoded())
    return port


def test_another_controller_is_asked_when_the_first_dies(plane: ControlPlane) -> None:
    """Its address was learnt at login."""
    second = two_managers(plane)
    with plane.client() as client:
        first = plane.ports[0]
        assert set(client.addresses) == {f"127.0.0.1:{first}", f"127.0.0.1:{second}"}
        plane.stop(first)
        assert client.nodes()
        assert client.address == f"127.0.0.1:{second}"
        assert client.call("POST", "/nodes/first/pause")["is_paused"]


def test_an_operation_is_followed_past_the_death_of_a_controller(plane: ControlPlane) -> None:
    """Whoever watches sees the end."""
    two_managers(plane)
    with plane.client() as client:
        begun = client.start_operation("join", {})

        def die_and_end() -> None:
            plane.stop(plane.ports[0])
            ended: Operation = begun.changed(
                state=OperationState.FAILED, updated_at=plane.now + 1, error="It did not work."
            )
            plane.put(keys.operation(begun.id), ended.encoded())

        dying = threading.Timer(0.5, die_and_end)
        dying.start()
        seen = list(client.follow(begun.id))
        dying.join()
    assert seen[-1].error == "It did not work."


def test_following_waits_for_etcd_and_gives_up_in_the_end(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence says that the operation goes on."""
    with plane.client() as client:
        begun = client.start_operation("join", {})
        plane.store.is_available = False
        monkeypatch.setattr(client_module, "_PATIENCE_SECONDS", 1.0)
        with pytest.raises(UcpError, match="goes on by itself") as error:
            list(client.follow(begun.id))
        assert begun.id in str(error.value)
        plane.store.is_available = True
        following = client.follow(begun.id)
        assert next(following).id == begun.id


def test_a_change_that_may_have_arrived_is_not_sent_again(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be done twice."""
    two_managers(plane)
    sent = []

    def send(self: httpx.Client, method: str, url: str, **_: object) -> httpx.Response:
        sent.append((method, url))
        raise httpx.ReadError("the connection ended")

    with plane.client() as client:
        monkeypatch.setattr(httpx.Client, "request", send)
        with pytest.raises(UnreachableError, match="may have done it"):
            client.call("POST", "/token/rotate")
        assert len(sent) == 1
        with pytest.raises(UnreachableError):
            client.call("GET", "/nodes")
        assert len(sent) == 3
        monkeypatch.undo()


def test_a_server_that_is_not_ucp_is_named(plane: ControlPlane) -> None:
    """A registry may answer at the address that was given."""
    with UcpClient(plane.address, ca_pem=plane.ca) as client:
        with pytest.raises(UcpError, match="not answer as UCP does"):
            client._answer("GET", "/ca", None, None, is_repeatable=True)
        assert client.clock() is not None
        assert client.is_healthy()
        plane.store.is_available = False
        assert not client.is_healthy()


def test_a_login_elsewhere_is_refused_in_a_sentence(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other programs answer JSON, too."""
    for content in (b"[]", b"{}", b"null", b"<html>"):
        answer = httpx.Response(200, content=content)
        with UcpClient(plane.address, ca_pem=plane.ca) as client:
            monkeypatch.setattr(httpx.Client, "request", lambda *_, a=answer, **__: a)
            with pytest.raises(UcpError, match="not answer as UCP does"):
                client.login(ADMINISTRATOR, PASSWORD)
            monkeypatch.undo()


def test_a_session_that_nobody_answers_ends_without_waiting(plane: ControlPlane) -> None:
    """Whoever pressed Ctrl-C does not wait for a logout."""
    with plane.client() as client:
        plane.stop(plane.ports[0])
        with pytest.raises(UnreachableError):
            client.nodes()
        assert client._is_lost
