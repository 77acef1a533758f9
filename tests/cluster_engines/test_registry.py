"""The registry's part of a replica, with a supervisor that only remembers."""

import asyncio
import json
import stat
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given as for_any
from hypothesis import strategies as st
from tests.cluster_engines.nodes import REPLICA, FakeControllers, TestNode, specification

from dtr.cluster.engines.registry import Registry, SettingsRefusedError
from dtr.cluster.engines.registry_settings import RegistryPlace, render, toml
from dtr.cluster.engines.web_certificate import WebCertificateMissingError
from dtr.cluster.model import ReplicaPhase, ReplicaSpecification
from dtr.model.members import Member, Members, MembersFile
from dtr.server.clock import read_correction
from dtr.server.settings import Settings
from dtr.server.settings_sources import load_settings
from dtr.testing.supervisor import RecordingSupervisor
from dtr.ucp.authority import Authority

OWN = Member(REPLICA, "node1", "127.0.0.1")
OTHER = Member("ba9876543210", "node2", "10.0.0.2")


class Part:
    """A registry with what it depends on."""

    def __init__(self, node: TestNode, authority: Authority) -> None:
        self.node = node
        self.supervisor = RecordingSupervisor()
        self.controllers = FakeControllers(authority)
        self.place = RegistryPlace(node.directory.of("replicas") / REPLICA / "registry")
        self.registry = Registry(
            node.identity, node.directory, self.supervisor, self.controllers, self.place
        )

    async def converge(self, given: ReplicaSpecification) -> None:
        """Bring it a step closer; where it waits for its web certificate, once more."""
        try:
            await self.registry.converge(self.node.wanted(), given)
        except WebCertificateMissingError:
            assert self.registry._web._asking is not None
            await asyncio.wait({self.registry._web._asking})
            await self.registry.converge(self.node.wanted(), given)

    @property
    def settings(self) -> Settings:
        """What the registry would load."""
        return load_settings(self.place.configuration, {}, environment={})


@pytest.fixture
def part(node: TestNode, authority: Authority) -> Part:
    """Give a registry that does not run yet."""
    return Part(node, authority)


async def test_settings_are_those_that_the_registry_loads(part: Part) -> None:
    """Checked by the registry's own reader."""
    changes = {
        "limits": {"manifest_bytes": 8388608},
        "server": {"trusted_proxies": ["10.0.0.9/32"]},
    }
    given = specification(external_url="https://node1", settings=changes)
    await part.converge(given)
    found = part.settings
    assert found.limits.manifest_bytes == 8388608
    assert str(found.server.listen) == "0.0.0.0:443"
    assert found.server.public_url == "https://node1"
    assert found.server.drain_seconds == 600
    assert found.storage.url == "file:///srv/registry"
    assert found.cluster.members_file == part.place.members
    assert found.data.directory == part.place.data
    assert found.data.admin_password_hash_file == part.place.administrator_hash
    await part.registry.end()


async def test_where_files_are_cannot_be_changed_by_shared_settings(part: Part) -> None:
    """What UCP writes stands, whatever somebody configured for all replicas."""
    changes = {"data": {"directory": "/elsewhere"}, "server": {"listen": "10.9.9.9:1"}}
    await part.converge(specification(settings=changes))
    assert part.settings.data.directory == part.place.data
    assert part.settings.server.listen.port == 443
    await part.registry.end()


async def test_secrets_are_in_files_of_their_own(part: Part) -> None:
    """Not in the settings, not in the command; and closed to others."""
    await part.converge(specification())
    process = part.supervisor.processes["registry"]
    assert "secret" not in part.place.configuration.read_text()
    assert "secret" not in " ".join(process.command)
    for path in (part.place.database_password, part.place.web_key, part.place.administrator_hash):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert process.may_bind_low_ports
    await part.registry.end()


async def test_a_member_that_comes_restarts_nothing(part: Part) -> None:
    """The file is replaced, and told by its digest."""
    await part.converge(specification(members=(OWN,)))
    before = part.registry.members_revision
    reader = MembersFile(part.place.members)
    assert reader.read().peers == ()
    await part.converge(specification(members=(OWN, OTHER)))
    assert reader.read() == Members(REPLICA, (OWN, OTHER))
    assert part.registry.members_revision != before
    assert part.supervisor.calls == ["start registry"]
    await part.registry.end()


async def test_other_settings_restart_and_another_certificate_is_taken_by_signal(
    part: Part, authority: Authority, node: TestNode
) -> None:
    """One at a time is the cluster's affair."""
    await part.converge(specification())
    await part.converge(specification(settings={"log": {"level": "debug"}}))
    assert part.supervisor.calls == ["start registry", "restart registry"]
    renewed = TestNode.create(authority, node.directory.root.with_name("renewed"), "127.0.0.1")
    node.directory.key.write_bytes(renewed.directory.key.read_bytes())
    node.directory.certificate.write_bytes(renewed.directory.certificate.read_bytes())
    await part.converge(specification(settings={"log": {"level": "debug"}}))
    assert part.supervisor.calls[2:] == ["reload registry"]
    peer = part.place.peer_keys
    assert peer.certificate.read_bytes() == renewed.directory.certificate.read_bytes()
    await part.registry.end()


async def test_settings_that_are_wrong_are_told_and_not_put_in_place(part: Part) -> None:
    """The running registry goes on with those before; members still change."""
    await part.converge(specification(members=(OWN,)))
    before = part.place.configuration.read_text()
    wrong = specification(members=(OWN, OTHER), settings={"limits": {"manifest_bytes": 1}})
    for _ in range(2):
        with pytest.raises(SettingsRefusedError, match=r"limits\.manifest_bytes"):
            await part.converge(wrong)
    assert part.place.configuration.read_text() == before
    assert not part.place.candidate.exists()
    assert MembersFile(part.place.members).read().peers == (OTHER,)
    assert part.supervisor.calls == ["start registry"]
    await part.registry.end()


async def test_draining_is_a_file_and_can_be_taken_back(part: Part) -> None:
    """Nothing restarts for it."""
    await part.converge(specification())
    assert not part.place.drain.exists()
    await part.converge(specification(phase=ReplicaPhase.DRAINING))
    assert part.place.drain.exists()
    await part.converge(specification())
    assert not part.place.drain.exists()
    assert part.supervisor.calls == ["start registry"]
    await part.registry.end()


async def test_the_revision_counts_once_the_registry_is_ready(part: Part) -> None:
    """The cluster waits for it before the next replica takes it."""
    await part.converge(specification(settings_revision=7))
    assert part.registry.settings_revision == 0
    part.supervisor.set_ready("registry")
    assert part.registry.settings_revision == 7
    await part.registry.end()


async def test_the_status_is_kept_while_no_controller_answers(part: Part) -> None:
    """The last one is better than none, and has its own time in it."""
    part.controllers.status = {"replicas": ["one"]}
    await part.converge(specification())
    async with asyncio.timeout(10):
        while not part.place.status.exists():  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.01)
    await part.registry.end()
    part.controllers.is_silent = True
    count = len(part.controllers.calls)
    await part.converge(specification())
    async with asyncio.timeout(10):
        while len(part.controllers.calls) == count:  # noqa: ASYNC110 - a list
            await asyncio.sleep(0.01)
    await part.registry.end()
    assert json.loads(part.place.status.read_text()) == {"replicas": ["one"]}


async def test_the_registry_is_told_by_how_much_its_machines_clock_is_wrong(part: Part) -> None:
    """As far as most machines agree; else what was told before has its own time in it."""
    await part.converge(specification())
    async with asyncio.timeout(10):
        while not part.place.status.exists():  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.01)
    await part.registry.end()
    assert not part.place.clock.exists()
    part.controllers.now = time.time() + 3600
    await part.converge(specification())
    async with asyncio.timeout(10):
        while not part.place.clock.exists():  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.01)
    await part.registry.end()
    correction = read_correction(part.place.clock)
    assert correction is not None
    assert 3590 < correction <= 3600


@pytest.mark.parametrize(
    ("status", "said", "is_read_only"),
    [
        (200, {"Error": "metadata: no primary answers", "ReadOnly": True}, True),
        (200, {"Error": "metadata: no primary answers; pulls go on, pushes wait"}, False),
        (200, {"Error": "", "ReadOnly": "yes"}, False),
        (200, ["ReadOnly"], False),
        (503, {"Error": "draining", "ReadOnly": True}, False),
    ],
)
async def test_read_only_mode_is_what_a_healthy_registry_says(
    part: Part, monkeypatch: pytest.MonkeyPatch, status: int, said: object, *, is_read_only: bool
) -> None:
    """For the cluster's status, which would say that pushes work."""

    async def ask(*_: object) -> tuple[int, bytes]:
        return status, json.dumps(said).encode()

    await part.converge(specification())
    monkeypatch.setattr(part.registry, "_ask", ask)
    assert bool(await part.registry.health()) == (status != 200)
    assert part.registry.is_read_only == is_read_only


async def test_a_registry_that_does_not_answer_is_not_healthy(part: Part) -> None:
    """And its storage has nothing to tell; damaged words are none."""
    assert await part.registry.health() == "the registry does not run yet"
    assert part.registry.storage() is None
    part.place.data.mkdir(parents=True)
    part.place.storage_status.write_text('{"blobs": 3, "bytes": 10}')
    report = part.registry.storage()
    assert report is not None
    assert (report.blobs, report.bytes) == (3, 10)
    part.place.storage_status.write_text("{")
    assert part.registry.storage() is None


def test_built_in_storage_is_named_as_the_registry_has_it() -> None:
    """A scheme without a place: the members are the place."""
    place = RegistryPlace(Path("/var/lib/ucp/r"))
    text = render(specification(storage="replicated"), OWN, place, is_own_authority=True)
    assert tomllib.loads(text)["storage"]["url"] == "replicated:"


def test_the_authority_is_handed_out_only_where_it_signed() -> None:
    """Clients of a user's certificate have nothing to do with ours."""
    place = RegistryPlace(Path("/var/lib/ucp/r"))
    for is_own in (True, False):
        text = render(specification(), OWN, place, is_own_authority=is_own)
        assert ("tls_ca" in tomllib.loads(text)["server"]) is is_own


_PLAIN = st.text() | st.integers(-(2**63), 2**63 - 1) | st.booleans()


@for_any(st.dictionaries(st.sampled_from(["a", "b_c"]), _PLAIN | st.lists(_PLAIN)))
def test_whatever_is_written_as_toml_is_read_again(values: dict[str, bool | int | str]) -> None:
    """Quotes, controls and letters of all kinds."""
    try:
        text = toml({"section": values})
        text.encode()
    except UnicodeEncodeError:
        return  # half of a surrogate pair is no text
    assert tomllib.loads(text) == {"section": values}
