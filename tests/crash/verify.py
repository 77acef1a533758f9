"""Reading back after a crash: everything that was acknowledged, and nothing by half."""

import random
import time
from collections import Counter

from tests.crash.http import Answer
from tests.crash.ledger import FOREVER, MARGIN_SECONDS, Owed, Repository, Session, digest_of
from tests.crash.load import ProblemError, Sends


class Verifier:
    """Reads back what a ledger owes and makes the ledger certain again."""

    def __init__(self, http: Sends, generator: random.Random) -> None:
        self._http = http
        self._random = generator
        self.counts: Counter[str] = Counter()

    def verify(self, repository: Repository) -> None:
        """Check one repository.

        Raises:
            ProblemError: something was lost, came back, or is not whole.

        """
        for tag in sorted(repository.tags):
            self._verify_tag(repository, tag)
        for digest in sorted(repository.manifests):
            self._verify_manifest(repository, digest)
        for digest in sorted(repository.blobs):
            self._verify_blob(repository, digest)
        for session in list(repository.sessions):
            repository.sessions.remove(session)
            self._verify_session(repository, session)
        repository.forget(time.time())

    def _verify_tag(self, repository: Repository, tag: str) -> None:
        allowed = repository.tags[tag]
        answer = self._get(repository, "manifests", tag)
        found = digest_of(answer.body) if answer.status == 200 else None
        if found not in allowed:
            raise ProblemError(f"{repository.name}:{tag} is on {found}, not on {allowed}: {answer}")
        repository.found_tag(tag, found)
        self.counts["tags"] += 1

    def _verify_manifest(self, repository: Repository, digest: str) -> None:
        owed = repository.manifests[digest]
        answer = self._verify_owed(repository, "manifests", digest, owed)
        if answer.status != 200:
            return
        for blob in owed.blobs:
            found = self._get(repository, "blobs", blob)
            if found.status == 200 and digest_of(found.body) == blob:
                self.counts["blobs of manifests"] += 1
            elif (
                owed.until == FOREVER
                or found.status == 200
                or self._get(repository, "manifests", digest).status == 200
            ):
                raise ProblemError(f"{repository.name}@{digest} needs {blob}: {found}")

    def _verify_blob(self, repository: Repository, digest: str) -> None:
        owed = repository.blobs[digest]
        if owed.until < time.time() and not owed.is_gone and self._random.random() < 0.7:
            return  # a look would keep it, and collection is to have something to do
        self._verify_owed(repository, "blobs", digest, owed)

    def _verify_owed(self, repository: Repository, kind: str, digest: str, owed: Owed) -> Answer:
        is_due = owed.until > time.time() + MARGIN_SECONDS
        answer = self._get(repository, kind, digest)
        where = f"{repository.name}/{kind}/{digest}"
        if answer.status == 200 and answer.body != owed.content:
            raise ProblemError(f"{where} has other bytes, {len(answer.body)} of them")
        if answer.status == 200 and owed.is_gone:
            raise ProblemError(f"{where} was deleted and is back")
        if answer.status != 200 and is_due:
            if owed.until < time.time() + MARGIN_SECONDS:
                return answer  # the answer took so long that it became due meanwhile
            raise ProblemError(f"{where} was acknowledged and is lost: {answer}")
        if answer.status not in {200, 404}:
            raise ProblemError(f"{where}: {answer}")
        self.counts[f"{kind} {'there' if answer.status == 200 else 'gone'}"] += 1
        return answer

    def _verify_session(self, repository: Repository, session: Session) -> None:
        """Go on with an upload where the registry says that it is."""
        sent, content = time.time(), session.content
        answer = self._http.send("GET", session.location)
        if answer.status == 404 and session.is_ending:
            self.counts["sessions that had ended"] += 1
            return
        if answer.status != 204:
            raise ProblemError(f"session with {session.offset} bytes acknowledged: {answer}")
        offset = int(answer.headers["range"].partition("-")[2]) + 1
        offset = 0 if offset == 1 and session.offset == 0 else offset
        if not session.offset <= offset <= len(content):
            raise ProblemError(f"session is at {offset}, {session.offset} were acknowledged")
        path = f"{session.location}?digest={digest_of(content)}"
        answer = self._http.send("PUT", path, content[offset:])
        if answer.status == 404 and session.is_ending:
            self.counts["sessions that had ended"] += 1
            return
        if answer.status != 201:
            raise ProblemError(f"session could not go on at {offset}: {answer}")
        repository.blob_acknowledged(content, sent)
        self.counts["sessions resumed"] += 1

    def _get(self, repository: Repository, kind: str, reference: str) -> Answer:
        return self._http.send("GET", f"/v2/{repository.name}/{kind}/{reference}")
