"""Which certificate a replica shows to clients."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.cluster_engines.nodes import FakeControllers, TestNode, specification

from dtr.cluster.engines import web_certificate
from dtr.cluster.engines.web_certificate import (
    Pair,
    WebCertificate,
    WebCertificateMissingError,
    names_of,
    read_pair,
)
from dtr.cluster.model import ReplicaSpecification
from dtr.ucp.authority import Authority, Purpose, make_request

HOST = "images.example.org"


def own(node: TestNode) -> Pair:
    """Give the node's certificate."""
    found = read_pair(node.directory.certificate, node.directory.key)
    assert found is not None
    return found


def signed(authority: Authority, *names: str, days_ago: float = 0) -> Pair:
    """Give a pair that the authority signed some days ago, for 90 days."""
    made = make_request()
    now = datetime.now(UTC) - timedelta(days=days_ago)
    certificate = authority.sign(
        made.request_pem, common_name="web", names=names, now=now, purpose=Purpose.WEB
    )
    return Pair(certificate, made.key_pem)


async def asked(web: WebCertificate) -> None:
    """Wait until the controllers have answered."""
    assert web._asking is not None
    await asyncio.wait({web._asking})


async def chosen_later(web: WebCertificate, given: ReplicaSpecification, node: TestNode) -> Pair:
    """Return what is shown once the controllers have answered."""
    with pytest.raises(WebCertificateMissingError):
        web.choose(given, own(node), None)
    await asked(web)
    return web.choose(given, own(node), None)


@pytest.mark.parametrize("url", ["", "https://127.0.0.1", "https://node1:8443"])
async def test_the_nodes_own_key_is_never_shown(
    node: TestNode, authority: Authority, url: str
) -> None:
    """It opens the agents' API; whoever breaks out of the registry must not have it."""
    web = WebCertificate(node.identity, FakeControllers(authority))
    chosen = await chosen_later(web, specification(external_url=url), node)
    assert chosen.key != own(node).key
    assert names_of(chosen.certificate) >= {"node1", "127.0.0.1"}
    assert not chosen.problem


async def test_the_nodes_own_key_gives_way_where_it_was_shown(
    node: TestNode, authority: Authority
) -> None:
    """Versions before did so; the registry is served meanwhile."""
    web = WebCertificate(node.identity, FakeControllers(authority))
    given = specification()
    assert web.choose(given, own(node), own(node)).key == own(node).key
    await asked(web)
    assert web.choose(given, own(node), own(node)).key != own(node).key


async def test_a_nodes_key_of_before_gives_way_as_well(
    node: TestNode, authority: Authority, short_directory: Path
) -> None:
    """The node has got another one meanwhile."""
    web = WebCertificate(node.identity, FakeControllers(authority))
    before = own(TestNode.create(authority, short_directory / "before", "127.0.0.1"))
    assert web.choose(specification(), own(node), before).key == before.key
    await asked(web)
    assert web.choose(specification(), own(node), before).key != before.key


async def test_one_with_the_external_name_is_asked_for(
    node: TestNode, authority: Authority
) -> None:
    """The key never leaves the machine."""
    controllers = FakeControllers(authority)
    web = WebCertificate(node.identity, controllers)
    given = specification(external_url=f"https://{HOST}")
    chosen = await chosen_later(web, given, node)
    assert names_of(chosen.certificate) == {HOST, "node1", "127.0.0.1", "localhost"}
    assert not chosen.problem
    assert chosen.is_own_authority
    assert "PRIVATE" not in str(controllers.calls)
    again = web.choose(given, own(node), chosen)
    assert (again, len(controllers.calls)) == (chosen, 1)


async def test_a_name_that_is_refused_keeps_nothing_from_being_served(
    node: TestNode, authority: Authority
) -> None:
    """The node's own names are, and the refusal is told."""
    controllers = FakeControllers(authority, refused=HOST)
    web = WebCertificate(node.identity, controllers)
    given = specification(external_url=f"https://{HOST}")
    chosen = await chosen_later(web, given, node)
    assert HOST not in names_of(chosen.certificate)
    assert "may not get a certificate" in chosen.problem


async def test_controllers_that_do_not_answer_change_nothing(
    node: TestNode, authority: Authority
) -> None:
    """What was shown is shown on, and they are not asked all the time."""
    controllers = FakeControllers(authority, is_silent=True)
    web = WebCertificate(node.identity, controllers)
    given = specification(external_url=f"https://{HOST}")
    kept = signed(authority, "node1", "127.0.0.1", "localhost")
    web.choose(given, own(node), kept)
    await asked(web)
    for _ in range(3):
        chosen = web.choose(given, own(node), kept)
    assert chosen.certificate == kept.certificate
    assert "no controller answered" in chosen.problem
    assert len(controllers.calls) == 1


async def test_one_is_renewed_in_the_last_third_of_its_life(
    node: TestNode, authority: Authority
) -> None:
    """The old one is shown until then."""
    controllers = FakeControllers(authority)
    web = WebCertificate(node.identity, controllers)
    given = specification(external_url=f"https://{HOST}")
    names = (HOST, "node1", "127.0.0.1", "localhost")
    young, old = (signed(authority, *names, days_ago=days) for days in (50, 65))
    assert web.choose(given, own(node), young) == young
    assert controllers.calls == []
    assert web.choose(given, own(node), old) == old
    await asked(web)
    renewed = web.choose(given, own(node), old)
    assert renewed.certificate not in {old.certificate, own(node).certificate}


@pytest.mark.parametrize("days_ago", [0, 100])
async def test_one_of_another_authority_or_time_is_not_kept(
    node: TestNode, authority: Authority, days_ago: int
) -> None:
    """Such as the user's, which is not wanted any more, or one that ended."""
    signer = Authority.create("stranger", datetime.now(UTC)) if not days_ago else authority
    kept = signed(signer, HOST, "node1", "127.0.0.1", "localhost", days_ago=days_ago)
    web = WebCertificate(node.identity, FakeControllers(authority))
    given = specification(external_url=f"https://{HOST}")
    with pytest.raises(WebCertificateMissingError):
        web.choose(given, own(node), kept)
    await asked(web)
    assert web.choose(given, own(node), kept).certificate != kept.certificate


async def test_the_users_wins(node: TestNode, authority: Authority) -> None:
    """Whoever signed it, and whatever names it has."""
    users = signed(Authority.create("public", datetime.now(UTC)), HOST)
    given = specification(web_certificate=users.certificate, web_key=users.key)
    web = WebCertificate(node.identity, FakeControllers(authority))
    chosen = web.choose(given, own(node), None)
    assert (chosen.certificate, chosen.key) == (users.certificate, users.key)
    assert not chosen.is_own_authority


@pytest.mark.parametrize("fault", ["expired", "another key", "no PEM"])
async def test_one_of_the_users_that_cannot_be_served_is_told(
    node: TestNode, authority: Authority, fault: str
) -> None:
    """The registry would not start with it; it is better to show ours."""
    users = signed(authority, HOST, days_ago=100 if fault == "expired" else 0)
    key = make_request().key_pem if fault == "another key" else users.key
    certificate = "nonsense" if fault == "no PEM" else users.certificate
    given = specification(web_certificate=certificate, web_key=key)
    web = WebCertificate(node.identity, FakeControllers(authority))
    chosen = await chosen_later(web, given, node)
    assert chosen.certificate != certificate
    assert "web certificate" in chosen.problem
    assert chosen.is_own_authority


def test_a_pair_shows_nothing_of_itself(node: TestNode) -> None:
    """Not even in a traceback."""
    assert "BEGIN" not in repr(own(node))
    assert web_certificate.names_of("nonsense") == frozenset()
