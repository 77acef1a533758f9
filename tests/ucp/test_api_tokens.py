"""Join tokens: two kinds, with an end, counted, revocable."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import JsonValue
from tests.ucp.plane import ControlPlane

from dtr.ucp import keys
from dtr.ucp.authority import make_request
from dtr.ucp.client import UcpError
from dtr.ucp.model import JoinToken, Role, TokenKind
from dtr.ucp.tokens import LIFETIME_SECONDS, Token, hash_secret

ONE_MORE = 1.0


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give a control plane of one manager."""
    with ControlPlane(tmp_path) as running:
        yield running


def asked(number: int, token: Token, **changed: Any) -> dict[str, Any]:
    """Give a wish to join."""
    return {
        "name": f"node{number}",
        "host_address": f"10.0.0.{number}",
        "csr": make_request().request_pem,
        "secret": token.secret,
        **changed,
    }


def code(answer: httpx.Response) -> tuple[int, str]:
    """Give the status and the code of an error."""
    return answer.status_code, answer.json()["errors"][0]["code"]


def kept(plane: ControlPlane, kind: TokenKind) -> JoinToken:
    """Give what controllers keep of a token."""
    entry = plane.entry(keys.join_token(kind))
    assert entry is not None
    return entry.document(JoinToken)


@pytest.mark.parametrize("role", list(Role))
def test_what_a_node_becomes_is_bounded_by_its_token(plane: ControlPlane, role: Role) -> None:
    """A manager's gives what is asked for; a worker's a worker, or nothing."""
    answer = plane.ask_to_join(asked(2, plane.token, role=str(role)))
    assert answer.json()["role"] == role
    assert plane.node(answer.json()["node_id"]).role is role
    answer = plane.ask_to_join(asked(3, plane.worker_token, role=str(role)))
    if role is Role.MANAGER:
        assert code(answer) == (403, "TOKEN_KIND")
        assert kept(plane, TokenKind.WORKER).uses == 0
    else:
        assert plane.node(answer.json()["node_id"]).role is Role.WORKER


@pytest.mark.parametrize("kind", list(TokenKind))
def test_a_token_ends(plane: ControlPlane, kind: TokenKind) -> None:
    """After a day, or what was asked for; then it lets nobody in and is shown to nobody."""
    token = plane.token if kind is TokenKind.MANAGER else plane.worker_token
    begun = plane.now
    plane.now = begun + LIFETIME_SECONDS - ONE_MORE
    assert plane.ask_to_join(asked(2, token)).status_code == 200
    plane.now = begun + LIFETIME_SECONDS
    assert code(plane.ask_to_join(asked(3, token))) == (401, "TOKEN_EXPIRED")
    with plane.client() as client:
        with pytest.raises(UcpError, match=f"ucp token rotate --kind {kind}"):
            client.call("GET", "/token", params={"kind": str(kind)})
        body: dict[str, JsonValue] = {"kind": str(kind), "lifetime_seconds": 60}
        new = Token.parse(client.call("POST", "/token/rotate", body)["token"])
    assert new.kind is kind
    assert code(plane.ask_to_join(asked(3, token))) == (401, "TOKEN_INVALID")
    assert plane.ask_to_join(asked(3, new)).status_code == 200
    plane.now += 60
    assert code(plane.ask_to_join(asked(4, new))) == (401, "TOKEN_EXPIRED")


def test_uses_are_counted_once_for_each_node(plane: ControlPlane) -> None:
    """A join that is said again after a lost answer is no second use; others are not counted."""
    body = asked(2, plane.token)
    for _ in range(3):
        assert plane.ask_to_join(body).status_code == 200
    assert plane.ask_to_join(asked(2, plane.token)).status_code == 409
    assert plane.ask_to_join(asked(3, plane.token)).status_code == 200
    with plane.client() as client:
        tokens = {each["kind"]: each for each in client.call("GET", "/tokens")["tokens"]}
    assert tokens["manager"]["uses"] == 2
    assert tokens["manager"]["last_used_at"] == plane.now
    assert tokens["worker"]["uses"] == 0
    assert plane.token.secret not in str(tokens)
    assert hash_secret(plane.token.secret) not in str(tokens)


def test_a_revoked_token_lets_nobody_in(plane: ControlPlane) -> None:
    """The other kind goes on; nodes that have joined stay."""
    node = plane.join("node2", "10.0.0.2")
    with plane.client() as client:
        assert client.call("POST", "/token/revoke", {"kind": "manager"})["uses"] == 1
        with pytest.raises(UcpError, match="no join token for managers"):
            client.call("POST", "/token/revoke", {"kind": "manager"})
    assert code(plane.ask_to_join(asked(3, plane.token))) == (401, "TOKEN_INVALID")
    assert plane.ask_to_join(asked(4, plane.worker_token)).status_code == 200
    with plane.http(node) as http:
        assert http.get("/api/ucp/v0/agent/time").status_code == 200


def test_a_token_of_before_tokens_had_an_end_lets_nobody_in(plane: ControlPlane) -> None:
    """It would never end: after an upgrade an administrator makes a new one."""
    old = {"secret_hash": hash_secret("a" * 32), "secret": "a" * 32, "created_at": plane.now}
    plane.put(keys.JOIN_TOKEN, JoinToken.model_validate(old).encoded())
    token = Token(plane.token.ca_fingerprint, "a" * 32)
    assert code(plane.ask_to_join(asked(2, token))) == (401, "TOKEN_EXPIRED")


@pytest.mark.parametrize("lifetime", [0, -1, 1e12, "x", None])
def test_no_token_is_made_that_never_ends(plane: ControlPlane, lifetime: Any) -> None:
    """A year is the longest."""
    with plane.client() as client, pytest.raises(UcpError, match="lifetime_seconds"):
        client.call("POST", "/token/rotate", {"lifetime_seconds": lifetime})
