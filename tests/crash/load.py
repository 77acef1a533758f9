"""Clients that push, retag, mount and delete at random, and write down what they were told."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from tests.crash.http import Answer, UnansweredError
from tests.crash.ledger import Repository, Session, digest_of

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
TAGS = ("latest", "stable", "next", "v1")
_SIZES = (0, 1, 1000, 20_000, 70_000, 300_000, 1_200_000, 3_000_000)
_SIZE_WEIGHTS = (1, 2, 8, 8, 4, 4, 2, 1)
_POOL = 24


class Sends(Protocol):
    """What takes requests to a registry and brings whole answers back."""

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request."""
        ...

    def close(self) -> None:
        """Drop what is open."""
        ...


class ProblemError(AssertionError):
    """The registry broke a promise."""


def contents(generator: random.Random) -> bytes:
    """Return one of a few contents that every client pushes, or one that nobody has."""
    if generator.random() < 0.5:
        generator = random.Random(generator.randrange(_POOL))
    return generator.randbytes(generator.choices(_SIZES, _SIZE_WEIGHTS)[0])


def manifest_of(config: bytes, layers: list[bytes], note: str) -> bytes:
    """Return an image manifest."""

    def descriptor(kind: str, content: bytes) -> dict[str, object]:
        return {"mediaType": kind, "digest": digest_of(content), "size": len(content)}

    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config),
            "layers": [descriptor(LAYER, layer) for layer in layers],
            "annotations": {"note": note},
        }
    ).encode()


class Client:
    """One client with repositories of its own; contents are everybody's."""

    def __init__(self, http: Sends, repositories: list[Repository], seed: int) -> None:
        self.http = http
        self.repositories = repositories
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.problem: BaseException | None = None
        self._steps = (
            (self._push_image, 10),
            (self._push_blob, 3),
            (self._retag, 3),
            (self._mount, 3),
            (self._begin_session, 3),
            (self._continue_session, 4),
            (self._delete_tag, 1),
            (self._delete_manifest, 2),
            (self._delete_blob, 1),
            (self._pull, 3),
        )

    def run(self, stop: threading.Event) -> None:
        """Work until stopped, or until nobody answers any more."""
        try:
            while not stop.is_set():
                step = self.random.choices(*zip(*self._steps, strict=True))[0]
                step(self.random.choice(self.repositories))
        except UnansweredError:
            self.counts["unanswered"] += 1
        except BaseException as error:  # noqa: BLE001 - the test's thread raises it
            self.problem = error
        finally:
            self.http.close()

    def push_blob(self, repository: Repository, content: bytes) -> None:
        """Push a blob in one of the ways that clients have."""
        sent = time.time()
        uploads = f"/v2/{repository.name}/blobs/uploads/"
        digest = digest_of(content)
        way = self.random.randrange(4)
        if way == 0:
            answer = self.http.send("POST", f"{uploads}?digest={digest}", content)
        else:
            location = self._location(self.http.send("POST", uploads, b""))
            if way == 1:
                answer = self.http.send("PUT", f"{location}?digest={digest}", content)
            elif way == 2:
                self._expect(self.http.send("PATCH", location, _pieces(content)), 202)
                answer = self.http.send("PUT", f"{location}?digest={digest}", b"")
            else:
                answer = self._in_chunks(location, content)
        self._expect(answer, 201)
        repository.blob_acknowledged(content, sent)
        self.counts["blobs"] += 1

    def _in_chunks(self, location: str, content: bytes) -> Answer:
        size = max(1, len(content) // 3)
        for start in range(0, len(content), size):
            self._patch(location, content, start, start + size)
        return self.http.send("PUT", f"{location}?digest={digest_of(content)}", b"")

    def _patch(self, location: str, content: bytes, start: int, stop: int) -> None:
        chunk = content[start:stop]
        answer = self.http.send(
            "PATCH", location, chunk, {"Content-Range": f"{start}-{start + len(chunk) - 1}"}
        )
        self._expect(answer, 202)

    def _push_blob(self, repository: Repository) -> None:
        self.push_blob(repository, contents(self.random))

    def _push_image(self, repository: Repository) -> None:
        began = time.time()
        config = self.random.randbytes(200)
        layers = [contents(self.random) for _ in range(self.random.randint(1, 3))]
        for content in (config, *layers):
            if digest_of(content) in repository.blobs and self._has(repository, content):
                continue
            self.push_blob(repository, content)
        payload = manifest_of(config, layers, str(self.random.random()))
        blobs = {digest_of(content) for content in (config, *layers)}
        self._put(repository, self.random.choice(TAGS), payload, blobs, began)

    def _has(self, repository: Repository, content: bytes) -> bool:
        sent = time.time()
        answer = self.http.send("HEAD", f"/v2/{repository.name}/blobs/{digest_of(content)}")
        if answer.status == 200:
            owed = repository.blobs[digest_of(content)]
            if owed.is_gone:
                raise ProblemError(f"{repository.name}@{digest_of(content)} was deleted")
            # Half of the grace is what a HEAD is sure to leave.
            owed.acknowledged(max(owed.until, sent + repository.grace / 2))
        return answer.status == 200

    def _put(
        self, repository: Repository, tag: str, payload: bytes, blobs: set[str], began: float
    ) -> None:
        digest = repository.put_sent(tag, payload, blobs, time.time())
        path = f"/v2/{repository.name}/manifests/{tag}"
        answer = self.http.send("PUT", path, payload, {"Content-Type": MANIFEST})
        # On a busy machine a push may take longer than its blobs are kept without a manifest.
        if answer.status == 404 and time.time() - began > repository.grace / 2:
            self.counts["images that took longer than the grace"] += 1
            return
        self._expect(answer, 201)
        repository.put_acknowledged(tag, digest)
        self.counts["manifests"] += 1

    def _retag(self, repository: Repository) -> None:
        """Point another tag at what a tag is surely on."""
        sure = [found for found in repository.tags.values() if len(found) == 1]
        digests = [digest for found in sure for digest in found if digest is not None]
        if digests:
            owed = repository.manifests[self.random.choice(digests)]
            self._put(
                repository, self.random.choice(TAGS), owed.content, set(owed.blobs), time.time()
            )
            self.counts["retags"] += 1

    def _mount(self, repository: Repository) -> None:
        source = self.random.choice(self.repositories)
        if not source.blobs:
            return
        digest = self.random.choice(sorted(source.blobs))
        sent = time.time()
        path = f"/v2/{repository.name}/blobs/uploads/?mount={digest}&from={source.name}"
        answer = self.http.send("POST", path, b"")
        self._expect(answer, 201, 202)
        if answer.status == 201:
            repository.blob_acknowledged(source.blobs[digest].content, sent)
            self.counts["mounts"] += 1
        elif source.blobs[digest].until > time.time():
            raise ProblemError(f"{digest} of {source.name} is owed, and was not mounted")
        else:
            self.http.send("DELETE", self._location(answer))

    def _begin_session(self, repository: Repository) -> None:
        content = self.random.randbytes(self.random.randint(10, 400_000))
        location = self._location(
            self.http.send("POST", f"/v2/{repository.name}/blobs/uploads/", b"")
        )
        repository.sessions.append(Session(location, content))

    def _continue_session(self, repository: Repository) -> None:
        if not repository.sessions:
            return
        session = self.random.choice(repository.sessions)
        sent = time.time()
        if session.offset == len(session.content):
            session.is_ending = True
            path = f"{session.location}?digest={digest_of(session.content)}"
            self._expect(self.http.send("PUT", path, b""), 201)
            repository.sessions.remove(session)
            repository.blob_acknowledged(session.content, sent)
            self.counts["sessions"] += 1
        else:
            stop = min(len(session.content), session.offset + self.random.randint(1, 200_000))
            self._patch(session.location, session.content, session.offset, stop)
            session.offset = stop
            self.counts["chunks"] += 1

    def _delete_tag(self, repository: Repository) -> None:
        sure = [tag for tag, found in repository.tags.items() if len(found - {None}) == len(found)]
        if sure:
            tag = self.random.choice(sure)
            repository.untag_sent(tag, time.time())
            answer = self.http.send("DELETE", f"/v2/{repository.name}/manifests/{tag}")
            self._expect(answer, 202)
            repository.untag_acknowledged(tag)
            self.counts["deletes"] += 1

    def _delete_manifest(self, repository: Repository) -> None:
        now = time.time()
        there = [digest for digest, owed in repository.manifests.items() if owed.until > now + 1]
        if there:
            digest = self.random.choice(there)
            repository.delete_sent(digest, now)
            answer = self.http.send("DELETE", f"/v2/{repository.name}/manifests/{digest}")
            self._expect(answer, 202)
            repository.delete_acknowledged(digest)
            self.counts["deletes"] += 1

    def _delete_blob(self, repository: Repository) -> None:
        if not repository.blobs:
            return
        digest = self.random.choice(sorted(repository.blobs))
        owed, was_until = repository.blobs[digest], repository.blobs[digest].until
        owed.doubted()
        answer = self.http.send("DELETE", f"/v2/{repository.name}/blobs/{digest}")
        self._expect(answer, 202, 404, 409)
        if answer.status == 409:
            owed.until = was_until
        elif repository.blob_is_surely_needed(digest):
            raise ProblemError(f"{digest} of {repository.name} is needed, and was deleted")
        else:
            owed.deleted()
            self.counts["deletes"] += 1

    def _pull(self, repository: Repository) -> None:
        """Pull what a tag is surely on, with all its blobs."""
        sure = [tag for tag, found in repository.tags.items() if len(found) == 1]
        for tag in self.random.sample(sure, min(1, len(sure))):
            (digest,) = repository.tags[tag]
            answer = self.http.send("GET", f"/v2/{repository.name}/manifests/{tag}")
            if digest is None:
                self._expect(answer, 404)
                continue
            self._expect(answer, 200)
            owed = repository.manifests[digest]
            if answer.body != owed.content:
                raise ProblemError(f"{repository.name}:{tag} is not what was pushed")
            for blob in owed.blobs:
                answer = self.http.send("GET", f"/v2/{repository.name}/blobs/{blob}")
                self._expect(answer, 200)
                if digest_of(answer.body) != blob:
                    raise ProblemError(f"{repository.name}@{blob} has other bytes")
            self.counts["pulls"] += 1

    def _location(self, answer: Answer) -> str:
        self._expect(answer, 202)
        return answer.headers["location"]

    def _expect(self, answer: Answer, *statuses: int) -> None:
        if answer.status not in statuses:
            wanted = " or ".join(map(str, statuses))
            raise ProblemError(f"expected {wanted}, got {answer}")


def _pieces(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), 50_000):
        yield content[start : start + 50_000]
