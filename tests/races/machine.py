"""Clients, two collectors, time and crashes in any order, against a model."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.collect.yard import GRACE, UNTAGGED_GRACE, Yard, open_yard
from tests.http.client import LAYER_TYPE, Repository, descriptor
from tests.races.model import Manifest, Shelf
from tests.races.stepping import SteppedCollector

from dtr.collect.check import Checker, Severity
from dtr.collect.collector import CollectSettings
from dtr.model.access import Visibility
from dtr.model.digest import Algorithm, Digest
from dtr.model.manifests import OCI_INDEX, OCI_MANIFEST
from dtr.storage import Progress
from dtr.testing.registry import ManualClock

T = TypeVar("T")

NAMES = ("admin/one", "admin/two")
CONTENTS = (b"aa", b"bbbb", b"cccccc")
TAGS = ("latest", "stable")
UPLOAD_TTL = 600
COLLECT = CollectSettings(
    untagged=True, grace_seconds=GRACE, untagged_grace_seconds=UNTAGGED_GRACE, batch=2
)

_PAUSES = (1, UPLOAD_TTL, GRACE + 1, UNTAGGED_GRACE * 3 // 5, UNTAGGED_GRACE + 1)

names = st.sampled_from(NAMES)
contents = st.sampled_from(CONTENTS)
tags = st.sampled_from(TAGS)
optional_tags = st.sampled_from((*TAGS, None))
picks = st.integers(0, 1000)

Thing = tuple[bytes, int | None, str]
"""A blob's content, or which manifest instead, and the media type that a document says it has."""
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
things = st.tuples(
    contents,
    st.one_of(st.none(), picks),
    st.sampled_from((LAYER_TYPE, OCI_MANIFEST, OCI_INDEX, FOREIGN)),
)


def made_of(document: dict[str, Any]) -> Manifest:
    """Return what the model knows of a document: every digest, in whichever position."""
    entries = document.get("manifests") or [document["config"], *document["layers"]]
    references = {str(entry["digest"]) for entry in entries}
    needed = {str(entry["digest"]) for entry in entries if entry["mediaType"] != FOREIGN}
    subject = document.get("subject")
    return Manifest(
        json.dumps(document).encode(),
        document["mediaType"],
        0,
        references=frozenset(references),
        optional=frozenset(references - needed),
        subject=str(subject["digest"]) if subject else None,
    )


class Registry(RuleBasedStateMachine):
    """One registry in one directory; everything that clients may do to it is a rule."""

    @initialize()
    def begin(self) -> None:
        """Open a new registry."""
        self.directory = Path(tempfile.mkdtemp(prefix="dtr-races-"))
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.collectors: list[SteppedCollector | None] = [None, None]
        self.shelves = {name: Shelf(GRACE, UNTAGGED_GRACE) for name in NAMES}
        self.sessions: list[tuple[str, str, bytes, int, float]] = []
        self.notes = 0
        self._open()
        for name in NAMES:
            self.yard.state.administration.create_repository(name, Visibility.PUBLIC)

    def teardown(self) -> None:
        """Close what is open."""
        if not hasattr(self, "runner"):
            return
        self._close()
        self.runner.close()
        shutil.rmtree(self.directory)

    def run(self, awaitable: Awaitable[T]) -> T:
        """Wait for something."""

        async def wait() -> T:
            return await awaitable

        return self.runner.run(wait())

    def _open(self) -> None:
        self.stack = AsyncExitStack()
        opened = open_yard(self.directory, clock=self.clock, missing_references="refuse")
        self.yard: Yard = self.run(self.stack.enter_async_context(opened))
        self.clock = self.yard.clock
        self.reader = self.yard.reader

    def _close(self) -> None:
        for number, collector in enumerate(self.collectors):
            if collector is not None:
                self.run(collector.drop())
            self.collectors[number] = None
        self.run(self.stack.aclose())

    def _repository(self, name: str) -> Repository:
        return self.yard.repository(name)

    def _pick(self, name: str, pick: int) -> str | None:
        """Choose one of the manifests that the model knows."""
        known = sorted(self.shelves[name].manifests)
        return known[pick % len(known)] if known else None

    # Pushes.

    @rule(name=names, content=contents)
    def push_blob(self, name: str, content: bytes) -> None:
        """Push a blob whole."""
        digest = self.run(self._repository(name).push_blob(content))
        self.shelves[name].keep_blob(digest, self.clock() + GRACE)

    @rule(name=names, content=contents)
    def begin_session(self, name: str, content: bytes) -> None:
        """Push the first half of a blob."""
        repository = self._repository(name)
        location = self.run(repository.start_upload())
        half = len(content) // 2
        answer = self.run(repository.client.patch(location, content=content[:half]))
        assert answer.status_code == 202, answer.text
        self.sessions.append((name, location, content, half, self.clock() + UPLOAD_TTL))

    @precondition(lambda self: self.sessions)
    @rule(pick=picks)
    def finish_session(self, pick: int) -> None:
        """Push the second half."""
        name, location, content, half, until = self.sessions.pop(pick % len(self.sessions))
        digest = Digest.of(content)
        answer = self.run(
            self.yard.client.put(location, params={"digest": digest}, content=content[half:])
        )
        if answer.status_code == 201:
            self.shelves[name].keep_blob(digest, self.clock() + GRACE)
        else:
            assert answer.status_code == 404, answer.text
            assert until <= self.clock()

    @rule(source=names, into=names, content=contents, is_named=st.booleans())
    def mount(self, source: str, into: str, content: bytes, is_named: bool) -> None:  # noqa: FBT001
        """Mount a blob, from a repository or from wherever it is."""
        digest = Digest.of(content)
        params = {"mount": str(digest), **({"from": source} if is_named else {})}
        answer = self.run(self.yard.client.post(self._repository(into).uploads, params=params))
        if answer.status_code == 201:
            self.shelves[into].keep_blob(digest, self.clock() + GRACE)
        else:
            assert answer.status_code == 202, answer.text
            assert digest not in self.shelves[source].owed_blobs(self.clock())
            self.run(self.yard.client.delete(answer.headers["Location"]))

    @rule(name=names, content=contents, method=st.sampled_from(("HEAD", "GET")))
    def ask_for_blob(self, name: str, content: bytes, method: str) -> None:
        """Ask as a pusher does before it pushes: a yes is worth half of the grace."""
        digest = Digest.of(content)
        answer = self.run(self.yard.client.request(method, self._repository(name).blob(digest)))
        if answer.status_code == 200:
            self.shelves[name].keep_blob(digest, self.clock() + GRACE / 2)
        else:
            assert answer.status_code == 404
            assert digest not in self.shelves[name].owed_blobs(self.clock())

    @rule(
        name=names,
        tag=optional_tags,
        of=st.lists(things, min_size=2, max_size=3),
        subject=st.one_of(st.none(), things),
        is_index=st.booleans(),
        is_whole=st.sampled_from((True, True, True, False)),
    )
    def push_manifest(
        self,
        name: str,
        tag: str | None,
        of: list[Thing],
        subject: Thing | None,
        *,
        is_index: bool,
        is_whole: bool,
    ) -> None:
        """Push a document whose every position names a blob or a manifest as whatever it likes."""
        named = [self._named(name, thing, is_whole=is_whole) for thing in of]
        self.notes += 1
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX if is_index else OCI_MANIFEST,
            "annotations": {"note": str(self.notes % 4)},
        }
        if is_index:
            document["manifests"] = named
        else:
            document |= {"config": named[0], "layers": named[1:]}
        about = subject and self._named(name, subject, is_whole=is_whole)
        if about:
            document["subject"] = about
        self._put(name, tag, made_of(document))

    def _named(self, name: str, thing: Thing, *, is_whole: bool) -> dict[str, Any]:
        """Return a descriptor of a blob, mostly pushed first, or of a manifest that was there."""
        content, pick, media_type = thing
        found = self._pick(name, pick) if pick is not None else None
        if found is not None:
            return descriptor(self.shelves[name].manifests[found].payload, media_type)
        if is_whole:
            self.push_blob(name, content)
        return descriptor(content, media_type)

    @rule(name=names, tag=tags, pick=picks)
    def retag(self, name: str, tag: str, pick: int) -> None:
        """Push a manifest that was pushed before."""
        digest = self._pick(name, pick)
        if digest is not None:
            self._put(name, tag, self.shelves[name].manifests[digest])

    def _put(self, name: str, tag: str | None, made: Manifest) -> None:
        repository, shelf, now = self._repository(name), self.shelves[name], self.clock()
        here = shelf.owed_manifests(now) | shelf.owed_blobs(now)
        is_owed = made.references - made.optional <= here
        answer = self.run(repository.put_manifest(made.payload, tag, content_type=made.media_type))
        if answer.status_code != 201:
            assert answer.status_code == 404, answer.text
            assert not is_owed, answer.text
            return
        digest = Digest.of(made.payload)
        with shelf.change(now):
            shelf.accept(made)
            found = shelf.manifests.setdefault(digest, made)
            if tag is not None:
                shelf.tags[tag] = digest
            elif digest not in shelf.tags.values():
                found.until = max(found.until, now + UNTAGGED_GRACE)

    # Deletes.

    @rule(name=names, tag=tags)
    def delete_tag(self, name: str, tag: str) -> None:
        """Delete a tag."""
        answer = self.run(self.yard.client.delete(self._repository(name).manifest(tag)))
        shelf = self.shelves[name]
        assert answer.status_code == (202 if tag in shelf.tags else 404), answer.text
        with shelf.change(self.clock()):
            shelf.tags.pop(tag, None)

    @rule(name=names, pick=picks)
    def delete_manifest(self, name: str, pick: int) -> None:
        """Delete a manifest that no other needs."""
        digest = self._pick(name, pick)
        if digest is None:
            return
        shelf, now = self.shelves[name], self.clock()
        was_owed = digest in shelf.owed_manifests(now)
        answer = self.run(self.yard.client.delete(self._repository(name).manifest(digest)))
        if answer.status_code == 409:
            assert shelf.is_referred_to(digest)
            return
        assert answer.status_code in ({202} if was_owed else {202, 404}), answer.text
        with shelf.change(now):
            blobs = shelf.manifests[digest].named & shelf.owed_blobs(now)
            shelf.forget(digest)
        if answer.status_code == 202:
            for blob in blobs:
                shelf.keep_blob(blob, now + GRACE)

    @rule(name=names, content=contents)
    def delete_blob(self, name: str, content: bytes) -> None:
        """Delete a blob that no manifest needs."""
        digest, shelf = Digest.of(content), self.shelves[name]
        answer = self.run(self.yard.client.delete(self._repository(name).blob(digest)))
        if answer.status_code == 409:
            assert shelf.is_referred_to(digest)
            return
        assert answer.status_code in {202, 404}, answer.text
        if digest in shelf.owed_blobs(self.clock()):
            assert answer.status_code == 202
            owed = shelf.owed_manifests(self.clock())
            assert not any(digest in shelf.manifests[each].references for each in owed)
        shelf.blobs.pop(digest, None)

    # Time, collection, crashes.

    @rule(seconds=st.sampled_from(_PAUSES), is_collecting=st.booleans())
    def pass_time(self, seconds: int, is_collecting: bool) -> None:  # noqa: FBT001
        """Let time pass, and take what it made due."""
        self.clock.advance(seconds)
        if is_collecting:
            self.collect_everything()

    @rule(number=st.sampled_from((0, 1)), count=st.integers(1, 20), is_for_delete=st.booleans())
    def collect_a_little(self, number: int, count: int, is_for_delete: bool) -> None:  # noqa: FBT001
        """Let one of the collectors do its next few things, perhaps up to where bytes go."""

        async def go_on() -> SteppedCollector | None:
            collector = self.collectors[number]
            if collector is None:
                state = self.yard.state
                collector = SteppedCollector(state.database, state.store, COLLECT, self.clock)
            for _ in range(count):
                if not await collector.step():
                    return None
                if is_for_delete and collector.is_about_to_delete:
                    break
            return collector

        self.collectors[number] = self.run(go_on())

    @rule()
    def collect_everything(self) -> None:
        """Run a collector of its own to the end, beside those that are under way."""
        self.run(self.yard.collect(untagged=True, batch=3))

    @rule()
    def crash_and_open_again(self) -> None:
        """Lose all that is only in memory: collectors, hash states, caches."""
        self._close()
        self._open()

    @rule(content=contents)
    def crash_before_the_row(self, content: bytes) -> None:
        """Leave bytes as a process does that dies between its commit and its transaction."""

        async def commit() -> None:
            writer = await self.yard.store.resume(
                f"dead-{self.notes}", Algorithm.SHA256, Progress()
            )
            await writer.append(content)
            await writer.commit(Digest.of(content))

        self.notes += 1
        self.run(commit())

    @rule(is_late=st.booleans())
    def sweep(self, is_late: bool) -> None:  # noqa: FBT001
        """Take away what crashes left, as the sweep does, or an administrator in a hurry."""
        checker = Checker(
            self.yard.state.database,
            self.yard.store,
            repair=True,
            verify=True,
            young_seconds=3600 if is_late else 0,
            clock=self.clock,
        )

        async def findings() -> list[Severity]:
            return [finding.severity async for finding in checker.findings()]

        assert set(self.run(findings())) <= {Severity.GARBAGE}

    # What always holds.

    @invariant()
    def everything_owed_is_here(self) -> None:
        """Manifests byte for byte, tags where they are, blobs whole, in every repository."""
        if hasattr(self, "yard"):
            self.run(self._read_back())

    async def _read_back(self) -> None:
        now = self.clock()
        for name, shelf in self.shelves.items():
            repository = self._repository(name).seen_by(self.reader)
            owed = shelf.owed_manifests(now)
            for digest in list(shelf.manifests):
                answer = await self.reader.get(repository.manifest(digest))
                if answer.status_code == 200:
                    assert answer.content == shelf.manifests[digest].payload
                else:
                    assert digest not in owed, f"{name}@{digest} is lost: {answer.text}"
                    shelf.forget(digest)
            for tag in TAGS:
                answer = await self.reader.get(repository.manifest(tag))
                found = Digest.of(answer.content) if answer.status_code == 200 else None
                assert found == shelf.tags.get(tag), f"{name}:{tag}"
            for blob in shelf.owed_blobs(now):
                answer = await self.reader.get(repository.blob(blob))
                assert answer.status_code == 200, f"{name}@{blob} is lost: {answer.text}"
                assert Digest.of(answer.content) == blob
            shelf.forget_blobs(now)

    @invariant()
    def metadata_and_storage_agree(self) -> None:
        """No row without bytes, no reference to what is not here, nothing with other bytes."""
        if not hasattr(self, "yard"):
            return
        findings = self.run(self.yard.check())
        wrong = [found for found in findings if found.severity is not Severity.GARBAGE]
        assert wrong == []
