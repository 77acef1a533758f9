"""An import from a registry that fails now and then: what is not brought is said."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.support.scripted import Answer, Servers, scripted_servers
from tests.transfer.tree import image, index

from dtr.database.schema import manifests, repositories, tags
from dtr.model.digest import Digest
from dtr.model.manifests import OCI_INDEX, OCI_MANIFEST
from dtr.registry.context import RegistrySettings
from dtr.remote import Targets, client
from dtr.testing.registry import RegistryState, open_state
from dtr.transfer import remote
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
        return UNKNOWN if found is None else Answer(200, found, {"content-type": _type(found)})

    def add_index(self, tag: str, *parts: Digest) -> Digest:
        """Add an index of these manifests; their own tags go."""
        payload = index(*parts)
        digest = Digest.of(payload)
        self.manifests[digest] = payload
        self.tags = {name: to for name, to in self.tags.items() if to not in parts}
        self.tags[tag] = digest
        return digest


def _type(payload: bytes) -> str:
    return OCI_INDEX if b'"manifests"' in payload else OCI_MANIFEST


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
    there = RemoteRegistry(Targets.parse(servers(source.answer).url))
    importer = Importer(there, state.database, state.store, RegistrySettings(), ImportSettings())
    try:
        return await importer.run(names)
    finally:
        await there.close()


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


def tags_here(state: RegistryState) -> dict[str, str]:
    """Return where the tags point."""
    rows = state.database.read_now(
        lambda r: r.execute(
            select(tags.c.name, manifests.c.digest).join_from(
                tags, manifests, manifests.c.id == tags.c.manifest_id
            )
        ).all()
    )
    return {row.name: row.digest for row in rows}


@pytest.mark.parametrize("status", [500, 403, 429])
@pytest.mark.parametrize("what", ["manifest", "blob", "nested"])
async def test_an_index_is_not_tagged_while_a_part_could_not_be_had(
    state: RegistryState, servers: Servers, what: str, status: int
) -> None:
    """Neither where a part failed nor where a blob of it did, however deep; afterwards it is."""
    source = Registry()
    one, two = (source.add(name, name) for name in ("one", "two"))
    inner = source.add_index("inner", one, two)
    whole = source.add_index("whole", inner) if what == "nested" else inner
    if what != "nested":
        source.tags = {"whole": whole}
    unlucky = Digest.of(b"two") if what == "blob" else two
    source.fails = lambda path: Answer(status) if unlucky in path else None
    done = await run(state, servers, source)
    assert tags_here(state) == {}
    assert digests_here(state) == {one}
    assert "was not imported" in {each.subject: each.reason for each in done.problems}["whole"]
    assert any(unlucky in each.reason and str(status) in each.reason for each in done.problems)

    source.fails = lambda _path: None
    assert (await run(state, servers, source)).problems == []
    assert tags_here(state) == {"whole": whole}
    assert digests_here(state) == set(source.manifests)


async def test_a_tag_does_not_move_to_an_index_that_is_here_without_a_part(
    state: RegistryState, servers: Servers
) -> None:
    """It came when the source lacked the part; now the source has it, and fails to give it."""
    source = Registry()
    one, two = (source.add(name, name) for name in ("one", "two"))
    whole = source.add_index("sparse", one, two)
    source.fails = lambda path: UNKNOWN if two in path else None
    done = await run(state, servers, source)
    assert tags_here(state) == {"sparse": whole}
    assert [(each.subject, two in each.reason) for each in done.problems] == [(whole, True)]

    source.tags["later"] = whole
    source.fails = lambda path: Answer(500) if two in path else None
    assert (await run(state, servers, source)).problems
    assert set(tags_here(state)) == {"sparse"}

    source.fails = lambda _path: None
    assert (await run(state, servers, source)).problems == []
    assert set(tags_here(state)) == {"sparse", "later"}
    assert digests_here(state) == {one, two, whole}


async def test_a_part_whose_answer_breaks_off_is_asked_for_again(
    state: RegistryState, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few times, and so is a page of a list."""
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.0)
    source = Registry()
    one, two = (source.add(name, name) for name in ("one", "two"))
    whole = source.add_index("whole", one, two)
    broken = {two: 2, "/tags/": 1}

    def fails(path: str) -> Answer | None:
        for part, left in broken.items():
            if part in path and left:
                broken[part] -= 1
                return Answer(body=b"{", length=100)
        return None

    source.fails = fails
    assert (await run(state, servers, source)).problems == []
    assert tags_here(state) == {"whole": whole}
    assert set(broken.values()) == {0}


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
