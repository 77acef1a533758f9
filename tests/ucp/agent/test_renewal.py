"""Certificates are renewed in time, with a new key, and a crash leaves a pair that matches."""

import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.ucp.agent.fakes import NODE_ID, FakeController, certify, make_node

from dtr.ucp.agent.condition import look
from dtr.ucp.agent.controllers import HttpControllers
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.agent.renewal import Renewal, settle
from dtr.ucp.agent.run import read_identity
from dtr.ucp.authority import NODE_LIFETIME, Authority

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Give an authority that all trust."""
    return Authority.create("c1", NOW)


@pytest.fixture
async def controller(tmp_path: Path, authority: Authority) -> AsyncIterator[FakeController]:
    """Give a controller that signs."""
    controller = FakeController(tmp_path / "controller", authority)
    await controller.start()
    yield controller
    await controller.stop()


@pytest.fixture
def directory(tmp_path: Path, authority: Authority, controller: FakeController) -> NodeDirectory:
    """Give the directory of a node whose certificate has less than a third of its life left."""
    make_node(tmp_path / "node", authority, (controller.address,))
    directory = NodeDirectory(tmp_path / "node")
    certify(directory, authority, NOW - NODE_LIFETIME * 0.7)
    return directory


@pytest.fixture
async def renewal(directory: NodeDirectory, controller: FakeController) -> AsyncIterator[Renewal]:
    """Give what renews the certificate of that node."""
    controllers = HttpControllers(directory, (controller.address,))
    yield Renewal(directory, NODE_ID, controllers)
    await controllers.close()


def pair(directory: NodeDirectory) -> tuple[str, str]:
    """Return key and certificate, which must match."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(directory.certificate, directory.key)
    return directory.key.read_text(), directory.certificate.read_text()


async def test_a_certificate_is_renewed_with_a_new_key_once_it_is_time(
    directory: NodeDirectory, renewal: Renewal, controller: FakeController
) -> None:
    """And then not again; the next call shows the new one."""
    key, certificate = pair(directory)
    assert await renewal.turn()
    renewed = pair(directory)
    assert renewed[0] != key
    assert renewed[1] != certificate
    assert directory.key.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in directory.key.parent.iterdir()) == [
        "ca.crt",
        "node.crt",
        "node.key",
    ]
    assert await renewal.turn()
    assert pair(directory) == renewed
    assert renewal.problem == ""


async def test_a_young_certificate_is_left_alone(
    directory: NodeDirectory, renewal: Renewal, authority: Authority
) -> None:
    """A third of its life is not reached."""
    certify(directory, authority, NOW - NODE_LIFETIME * 0.6)
    before = pair(directory)
    assert await renewal.turn()
    assert pair(directory) == before


async def test_a_controller_that_is_away_or_refuses_is_a_problem_and_nothing_is_lost(
    directory: NodeDirectory, renewal: Renewal, controller: FakeController
) -> None:
    """The old pair goes on, and the next attempt begins anew."""
    before = pair(directory)
    controller.refusal = (503, "UNAVAILABLE")
    assert not await renewal.turn()
    assert "could not be renewed: No controller answered" in renewal.problem
    controller.refusal = (409, "BUSY")
    assert not await renewal.turn()
    assert "Not you." in renewal.problem
    assert pair(directory) == before
    controller.refusal = None
    assert await renewal.turn()
    assert renewal.problem == ""
    assert pair(directory) != before


async def test_a_certificate_of_another_authority_is_not_taken(
    directory: NodeDirectory, renewal: Renewal, controller: FakeController
) -> None:
    """It would shut the node out."""
    before = pair(directory)
    controller.signs = Authority.create("c2", NOW)
    assert not await renewal.turn()
    assert "Another authority" in renewal.problem
    settle(directory)
    assert pair(directory) == before


@pytest.mark.parametrize("step", ["key written", "certified", "key moved", "all moved"])
async def test_a_crash_at_any_step_leaves_a_pair_that_matches(
    directory: NodeDirectory, authority: Authority, step: str
) -> None:
    """After `settle`, which every agent calls first; the old pair before the point of no return."""
    old = pair(directory)
    certify(directory, authority, NOW)
    new = pair(directory)
    next_key, next_certificate = (
        directory.key.with_name("next.key"),
        directory.key.with_name("next.crt"),
    )
    if step != "all moved":
        next_key.write_text(new[0])
        directory.key.write_text(old[0])
        directory.certificate.write_text(old[1])
    if step in {"certified", "key moved"}:
        next_certificate.write_text(new[1])
    if step == "key moved":
        next_key.replace(directory.key)
    settle(directory)
    assert pair(directory) == (old if step == "key written" else new)
    assert not next_key.exists()
    assert not next_certificate.exists()


def test_a_certificate_that_was_not_renewed_is_reported(
    directory: NodeDirectory, authority: Authority
) -> None:
    """In time, and when it is too late."""
    identity = read_identity(directory)
    now = NOW.timestamp()
    assert not look(directory, identity, None, now).problems
    certify(directory, authority, NOW - NODE_LIFETIME * 0.9)
    condition = look(directory, identity, None, now)
    assert condition.problems[0].startswith("The node's certificate expires in 9.0 days and was")
    assert abs(condition.certificate_expires_at - (now + 9 * 86400)) < 60
    certify(directory, authority, NOW - NODE_LIFETIME - timedelta(hours=1))
    assert "has expired" in look(directory, identity, None, now).problems[0]
    directory.certificate.write_text("")
    assert "cannot be read" in look(directory, identity, None, now).problems[0]


async def test_a_certificate_is_renewed_at_once_where_its_key_was_given_away(
    directory: NodeDirectory, renewal: Renewal, controller: FakeController, authority: Authority
) -> None:
    """Once, however young it is."""
    certify(directory, authority, NOW)
    young = pair(directory)
    assert await renewal.turn()
    assert pair(directory) == young
    directory.renewal_wish.touch()
    assert await renewal.turn()
    renewed = pair(directory)
    assert renewed != young
    assert await renewal.turn()
    assert pair(directory) == renewed
