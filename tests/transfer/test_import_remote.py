"""An import from a registry that fails now and then: what is not brought is said."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.support.scripted import Answer, Servers, scripted_servers
from tests.transfer.tree import image

from dtr.database.schema import manifests, repositories, tags
from dtr.model.digest import Digest
from dtr.model.manifests import OCI_MANIFEST
from dtr.registry.context import RegistrySettings
from dtr.remote import Targets, client
from dtr.testing.registry import RegistryState, open_state
from dtr.transfer.importer import Imported, Importer, ImportSettings
from dtr.transfer.remote import RemoteRegistry

UNKNOWN = Answer(404, b'{"errors": [{"code": "NAME_UNKNOWN"}]}')


@dataclass
class Registry:
    """A registry of one repository, `team/app`, which a test has fail where it likes."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    referrers: dict[str, list[str]] = field(default_factory=dict)
    catalog: list[str] = field(default_factory=lambda: ["team/app"])
    fails: Callable[[str], Answer | None] = lambda _path: None

    def add(self, tag: str, content: str, subject: Digest | None = None) -> Digest:
        """Add an image; without a tag where it refers to another one."""
        found = []
        for blob in (f"config of {content}".encode(), content.encode()):
            found.append(Digest.of(blob))
            self.blobs[found[-1]] = blob
        payload = image(found[0], found[1], subject)
        digest = Digest.of(payload)
        self.manifests[digest] = payload
        if subject is None:
            self.tags[tag] = digest
        else:
            self.referrers.setdefault(subject, []).append(digest)
        return digest

    def answer(self, path: str, _headers: dict[str, str]) -> Answer:
        """Answer as the distribution-spec has it."""
        if (failure := self.fails(path)) is not None:
            return failure
        path = path.partition("?")[0]
        if path in {"/v2/", "/v2/_catalog"}:
            return Answer(body=json.dumps({"repositories": self.catalog}).encode())
        if not path.startswith("/v2/team/app/"):
            return UNKNOWN
        kind, _, name = path.removeprefix("/v2/team/app/").partition("/")
        if kind == "tags":
            return Answer(body=json.dumps({"tags": list(self.tags)}).encode())
        if kind == "referrers":
            entries = [{"digest": each} for each in self.referrers.get(name, [])]
            return Answer(body=json.dumps({"manifests": entries}).encode())
        found = (self.manifests if kind == "manifests" else self.blobs).get(
            self.tags.get(name, name)
        )
        return UNKNOWN if found is None else Answer(200, found, {"content-type": OCI_MANIFEST})


@pytest.fixture
def servers() -> Iterator[Servers]:
    """Give what starts a server on a script."""
    with scripted_servers() as start:
        yield start


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RegistryState:
    """Give a registry of ours; the other one is asked once and not five times."""
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    return open_state(tmp_path)


@pytest.fixture
def source() -> Registry:
    """Give a registry with three images, each signed."""
    source = Registry()
    for number in range(3):
        subject = source.add(f"v{number}", f"image {number}")
        source.add("", f"signature {number}", subject)
    return source


async def run(state: RegistryState, servers: Servers, source: Registry, *names: str) -> Imported:
    """Import from a registry, all or by name."""
    remote = RemoteRegistry(Targets.parse(servers(source.answer).url))
    importer = Importer(remote, state.database, state.store, RegistrySettings(), ImportSettings())
    try:
        return await importer.run(names)
    finally:
        await remote.close()


def digests_here(state: RegistryState) -> set[str]:
    """Return the digests of all manifests that are here."""
    rows = state.database.read_now(lambda r: r.execute(select(manifests.c.digest)).all())
    return {row.digest for row in rows}


@pytest.mark.parametrize("status", [500, 403, 429])
async def test_one_failed_list_of_referrers_costs_no_other_signature(
    state: RegistryState, servers: Servers, source: Registry, status: int
) -> None:
    """The others come, the image comes, and what may be missing is listed."""
    unlucky = source.tags["v0"]
    source.fails = lambda path: Answer(status) if f"/referrers/{unlucky}" in path else None
    done = await run(state, servers, source)
    lost = set(source.referrers[Digest.parse(unlucky)])
    assert digests_here(state) == set(source.manifests) - lost
    assert [(each.repository, each.subject) for each in done.problems] == [("team/app", unlucky)]
    assert "not all that refers to it could be found" in done.problems[0].reason
    assert str(status) in done.problems[0].reason
    assert done.tags == 3

    source.fails = lambda _path: None
    assert (await run(state, servers, source)).problems == []
    assert digests_here(state) == set(source.manifests)


async def test_a_signature_that_cannot_be_had_is_listed(
    state: RegistryState, servers: Servers, source: Registry
) -> None:
    """Its list was answered, and then it was not there."""
    subject = Digest.parse(source.tags["v1"])
    (lost,) = source.referrers[subject]
    source.fails = lambda path: Answer(500) if lost in path else None
    done = await run(state, servers, source)
    assert digests_here(state) == set(source.manifests) - {lost}
    assert [each.subject for each in done.problems] == [subject]
    assert lost in done.problems[0].reason


async def test_what_a_tagged_signature_is_about_comes_with_it(
    state: RegistryState, servers: Servers, source: Registry
) -> None:
    """No tag names it any more, and it may have been deleted; a failure is listed."""
    signature = source.referrers[Digest.parse(source.tags["v0"])][0]
    subject = source.tags.pop("v0")
    source.tags["signature"] = signature
    source.fails = lambda path: Answer(500) if f"/manifests/{subject}" in path else None
    done = await run(state, servers, source)
    assert [each.subject for each in done.problems] == [signature]
    assert subject in done.problems[0].reason

    source.fails = lambda path: UNKNOWN if f"/manifests/{subject}" in path else None
    assert (await run(state, servers, source)).problems == []
    assert digests_here(state) == set(source.manifests) - {subject}

    source.fails = lambda _path: None
    assert (await run(state, servers, source)).problems == []
    assert digests_here(state) == set(source.manifests)


@pytest.mark.parametrize("tags_of_it", [UNKNOWN, Answer(body=b'{"tags": null}')])
async def test_a_repository_with_blobs_only_is_no_error(
    state: RegistryState, servers: Servers, source: Registry, tags_of_it: Answer
) -> None:
    """Some registries answer 404 for its tags; nothing is made of it here."""
    source.catalog.append("team/blobs")
    source.fails = lambda path: tags_of_it if "/team/blobs/" in path else None
    done = await run(state, servers, source)
    assert (done.problems, done.repositories) == ([], 1)
    rows = state.database.read_now(lambda r: r.execute(select(repositories.c.name)).all())
    assert [row.name for row in rows] == ["team/app"]


async def test_a_repository_that_was_named_and_is_not_there_is_an_error(
    state: RegistryState, servers: Servers, source: Registry
) -> None:
    """Then 404 is a name that was mistyped; so is any other failure, also of a listed one."""
    done = await run(state, servers, source, "team/ap")
    assert [(each.repository, each.subject) for each in done.problems] == [
        ("team/ap", "the repository")
    ]
    source.fails = lambda path: Answer(403) if "/tags/" in path else None
    done = await run(state, servers, source)
    assert "answers 403" in done.problems[0].reason
    assert state.database.read_now(lambda r: r.execute(select(tags.c.name)).all()) == []
